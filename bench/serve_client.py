"""What bench/serve_load.py and bench/serve_malformed.py share: a server under their eyes, and a client that sends raw bytes."""

import asyncio
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

KEY = "a key of many letters"
PATIENCE = 300  # seconds for one answer


class Server:
    """While it lives, `serve` answers on a port of its own."""

    def __init__(self, binary, checkpoint, *options):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([binary, "serve", str(checkpoint), "--port", "0", *map(str, options)],
                                        env={**os.environ, "KVSMITH_API_KEY": KEY}, stderr=self.log)
        self.port = None

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def __enter__(self):
        for _ in range(1200):
            address = self.said().partition("serving on http://127.0.0.1:")[2].partition("/v1")
            if address[1]:
                self.port = int(address[0])
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"the server does not serve: {self.said()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.exit_code = self.process.wait(120)

    def is_up(self):
        return self.process.poll() is None

    def resident(self):
        """Bytes of memory of the process, now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def cpu_seconds(self):
        """Of processors, that the process has used: what it costs, whatever else runs on the machine."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def metrics(self):
        reply = await exchange(self.port, request("GET", "/metrics"))
        pairs = (line.rpartition(" ") for line in reply.body.decode().splitlines() if not line.startswith("#"))
        return {name.removeprefix("kvsmith_"): float(value) for name, _, value in pairs}


@dataclass
class Reply:
    status: int = 0  # 0: the connection ended without an answer
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    def json(self):
        return json.loads(self.body)


def request(method, path, body=None, headers=()):
    """The bytes of a request; `body`: a JSON value or bytes. A header of a value None is left out."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "x", "Authorization": f"Bearer {KEY}", "Content-Type": "application/json",
              "Content-Length": str(len(data)) if body is not None else None, **dict(headers)}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


async def read_reply(reader):
    """One answer, as far as it comes."""
    reply = Reply()
    try:
        while (head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")).startswith("HTTP/1.1 100"):
            pass
        first, *lines = head.rstrip().split("\r\n")
        reply.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        reply.status = int(first.split()[1])
        if reply.headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                reply.body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        else:
            reply.body = await reader.readexactly(int(reply.headers.get("content-length", 0)))
        reply.is_whole = True
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
        pass
    return reply


async def exchange(port, data, leaves_after=None):
    """The answer to `data`; none where the client leaves before, after so many seconds."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    except ConnectionError:
        return Reply()
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(read_reply(reader), leaves_after or PATIENCE)
    except ConnectionError:
        return await read_reply(reader)  # what came before the other end closed
    except TimeoutError:
        if not leaves_after:
            raise
        return Reply()
    finally:
        writer.transport.abort() if leaves_after else writer.close()


async def ask(port, body, leaves_after=None):
    return await exchange(port, request("POST", "/v1/completions", body), leaves_after)


def megabytes(count):
    return f"{count / 2**20:.1f} MiB"
