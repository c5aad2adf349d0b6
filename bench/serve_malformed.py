"""`serve` under attack: malformed requests of many families, each of which must get an answer of 4xx with a JSON error.

Usage: bench/serve_malformed.py KVSMITH CHECKPOINT [--requests 10000] [--json OUT]

Where HTTP itself is broken the connection may close instead. Never a 5xx, never a silence; after each tenth of the requests a good one
must be answered as before, and the memory and the open files of the server must not grow after the first tenth. Exit code 1 where
something is not so. Needs nothing beside Python; seeded.
"""

import argparse
import asyncio
import gzip
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

from serve_client import Reply, Server, ask, exchange, megabytes, read_reply, request

MOST_BODY = 1 << 18
HANG = 45  # seconds without an answer; the server's own limits are 10 for a head and 30 for a body
MOST_GROWTH = 32 << 20
GOOD = {"prompt": "It was a dark night", "max_tokens": 8, "temperature": 0, "stop": ["@@"], "top_p": 0.9, "seed": 3, "stream": False}
TALK = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
BOMB = gzip.compress(b'{"prompt": "' + b"x" * (20 << 20) + b'"}')
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kvsmith"), parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--slow", type=int, default=24, help="sockets that dribble through the whole run")
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def completion(**fields):
    return request("POST", COMPLETIONS, {**GOOD, **fields})


def body_text(text, path=COMPLETIONS):
    return request("POST", path, text if isinstance(text, bytes) else text.encode())


def raw(text):
    return text if isinstance(text, bytes) else text.encode("latin-1")


def broken_json(r):
    text = json.dumps(r.choice((GOOD, TALK)))
    places = [i for i, c in enumerate(text) if c in "{}[]:,\""]
    cut = r.choice(places)
    return body_text(r.choice((text[:r.randrange(len(text))], text[:cut] + text[cut + 1:], text + r.choice("}]\",x"), "",
                               text.replace(":", r.choice(("=", "::", ",")), 1), "'" + text, text.replace('"', "'"))))


def wrong_type(r):
    field = r.choice(sorted(GOOD))
    values = [{"a": 1}, [[1, "x"]], [{}], 3.7, True, "yes", [None]]
    fit = {"prompt": [3.7, True, {"a": 1}, [[1, "x"]], [{}], [None], None], "stop": [3, {"a": 1}, [3], True, [None], [["x"]]],
           "stream": ["yes", 1, [True], {}], "temperature": ["1", [1], {}, True], "top_p": ["1", [1], {}, True]}
    values = fit.get(field, ["1", 3.7, [1], {}, True, False])
    return completion(**{field: r.choice(values)})


def nested(r):
    depth = int(10 ** r.uniform(2, 5))
    opening, closing = r.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    deep = opening * depth + "1" + (closing * depth if r.random() < 0.7 else "")
    return body_text(r.choice(('{"prompt": %s}', '{"prompt": "x", "logit_bias": %s}', '{"prompt": [%s]}', "%s",
                               '{"prompt": "x", "stop": %s}', '{"messages": %s}')) % deep, r.choice((COMPLETIONS, CHAT)))


def huge_number(r):
    number = r.choice(("1e999", "-1e999", "9" * 400, "-" + "9" * 400, "1e-9999", "0." + "0" * 400 + "1", "18446744073709551616",
                       "-9223372036854775809", "1" + "0" * 5000))
    return body_text('{"prompt": "x", "%s": %s}' % (r.choice(("max_tokens", "top_k", "top_p", "logprobs", "n")), number))


def not_a_number(r):
    return body_text('{"prompt": "x", "%s": %s}' % (r.choice(("temperature", "top_p", "max_tokens", "seed", "prompt")), r.choice(
        ("NaN", "Infinity", "-Infinity", "nan", "inf", "+1", "01", ".5", "1.", "0x10", "--1", "1e"))))


def absurd_sampling(r):
    field, values = r.choice(sorted({
        "temperature": [-1, -1e-9, 101, 1e300], "top_p": [0, -0.5, 1.0001, 1e30], "top_k": [-1, 2**40, -2**63], "max_tokens": [0, -1, 10**9],
        "logprobs": [-1, 21, 10**12], "seed": [2**64, -2**70], "n": [0, 2, -1, 10**9], "best_of": [0, 100], "presence_penalty": [1, -2],
        "frequency_penalty": [0.5], "logit_bias": [{"5": 100}], "suffix": ["x"], "stop": [["x"] * 17, "", ["a", ""], ["y" * 99] * 1000],
    }.items()))
    return completion(**{field: r.choice(values)})


def invalid_utf8(r):
    text = json.dumps(GOOD).encode()
    bad = r.choice((b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xe6", r.randbytes(3) + b"\xfe", b"\x00"))
    place = text.index(b"dark") + r.randrange(4)
    return body_text(text[:place] + bad + text[place:])


def lone_surrogate(r):
    return body_text('{"prompt": "a%sb"}' % r.choice(("\\ud800", "\\udfff", "\\ud800\\ud800", "\\ud83d", "\\ude00x", "\\u12", "\\uZZZZ", "\\x41")))


def unknown_field(r):
    return completion(**{r.choice(("temprature", "tools", "prompts", "max_token", "\u2028", "x" * 5000, "__proto__", "")): 1})


def unknown_model(r):
    return completion(model=r.choice(("gpt-4", "", "../../etc/passwd", "x" * 3000, "\x00", "gqa\n")))


def token_ids(r):
    return completion(prompt=r.choice(([-1], [10**9], [2**31], [2**63], [2**64], [1.5], [], [[]], [[], []], [[5], []], [5, "x"], [5, [5]], [[5], "x"],
                                       [[-1]], [5, None], [[5] * 4, [10**7]], [5] * 40000, [[5]] * 1025)))


def too_long(r):
    return r.choice((lambda: completion(prompt="night " * 30000), lambda: completion(prompt="x" * 200000), lambda: completion(max_tokens=10**5),
                     lambda: request("POST", CHAT, {"messages": [{"role": "user", "content": "go " * 50000}]}),
                     lambda: completion(prompt="\u4e00" * 60000), lambda: completion(prompt=" " * 200000)))()


def chat(r):
    return request("POST", CHAT, {**TALK, "messages": r.choice((
        [], {}, "hello", [1], [{}], [{"role": "tool", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], [{"role": 3, "content": "x"}],
        [{"role": "user", "content": "x", "tool_calls": []}], None, [None], [{"role": "user", "content": [{"type": "text"}]}]))})


def oversized(r):
    size = MOST_BODY + r.choice((1, 1000, MOST_BODY))
    body = json.dumps({**GOOD, "prompt": "x" * size}).encode()
    if r.random() < 0.5:
        return body_text(body)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[i:i + 5000] for i in range(0, len(body), 5000)))
    return request("POST", COMPLETIONS, chunks + b"0\r\n\r\n", {"Content-Length": None, "Transfer-Encoding": "chunked"})


def lying_length(r):
    text = json.dumps(GOOD).encode()
    return request("POST", COMPLETIONS, text, {"Content-Length": r.choice((
        str(len(text) - r.randint(1, 40)), "-5", "0", "abc", "", "1e3", "0x20", "99999999999999999999999", str(10**15), f"{len(text)}, {len(text) + 1}",
        None, f"+{len(text)}", f"{len(text)}\r\nContent-Length: 5", f"{len(text)}\r\nTransfer-Encoding: chunked"))})


def bad_chunks(r):
    text = json.dumps(GOOD).encode()
    good = b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
    body = r.choice((b"zz\r\n" + text, b"-5\r\n" + text, b"f" * 16 + b"\r\n" + text, b"f" * 400 + b"\r\n" + text, b"5\r\n" + text, good[2:],
                     b"5;" + b"x" * 200000, b"\r\n\r\n", b"0\r\n\r\n", b"%x\n%s\n0\n\n" % (len(text), text), good.replace(b"0\r\n\r\n", b"-1\r\n\r\n")))
    return request("POST", COMPLETIONS, body, {"Content-Length": None, "Transfer-Encoding": r.choice(("chunked", "chunked", "gzip, chunked", "x"))})


def encodings(r):
    body, encoding = r.choice(((b"not gzip", "gzip"), (BOMB, "gzip"), (BOMB[:100], "gzip"), (b"\x00" * 50, "br"), (b"junk", "deflate"), (b"{", "zstd")))
    return request("POST", COMPLETIONS, body, {"Content-Encoding": encoding})


def content_types(r):
    kind = r.choice(("text/plain", "multipart/form-data; boundary=x", "multipart/form-data", "application/x-www-form-urlencoded", None, "\xff", "json"))
    return request("POST", COMPLETIONS, r.choice((b"a=b&" * 5000, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
                                                  json.dumps(GOOD).encode())), {"Content-Type": kind})


def wrong_key(r):
    key = r.choice((None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "bearer a key of many letters", "Bearer a key of many letter",
                    "Bearer a key of many letters!", "Bearer " + "x" * 7000, "Bearer \xff\xfe", "Bearer a key of many letters%00"))
    method, path = r.choice((("POST", COMPLETIONS), ("POST", CHAT), ("GET", "/metrics"), ("GET", "/v1/models")))
    return request(method, path, GOOD if method == "POST" else None, {"Authorization": key})


def paths(r):
    method = r.choice(("PUT", "DELETE", "PATCH", "GET", "POST", "OPTIONS", "HEAD"))
    path = r.choice(("/", "/v1/embeddings", "/../../etc/passwd", "/%2e%2e/%00", "/v1/completions/", "/v1/completion", "//", "/%zz%u00", "/v1//models",
                     "/x?" + "a=b&" * 1000, "*", "http://evil/v1/x"))
    body = r.choice((GOOD, b"junk" * 1000)) if method not in ("GET", "HEAD", "OPTIONS") else None
    return request(method, path, body)


def wrong_method(r):
    return r.choice((request("GET", COMPLETIONS), request("POST", "/health", GOOD), request("PUT", COMPLETIONS, GOOD), request("DELETE", "/v1/models"),
                     request("POST", "/metrics", b"x" * 1000), request("PATCH", CHAT, b""), request("GET", "/health", GOOD)))


def ranges(r):
    value = r.choice(("bytes=99999999999999999999-", "bytes=5-2", "bytes=-", "bytes=" + "0-0," * 1500 + "0-0", "lines=1-2", "bytes=900000-"))
    return request("POST", COMPLETIONS, b"{", {"Range": value})


def expectations(r):
    return request("POST", COMPLETIONS, b"{", {"Expect": r.choice(("100-continue", "200-ok", ""))})


def header_flood(r):
    flood = r.choice((lambda: "".join(f"x{i}: {i}\r\n" for i in range(r.choice((500, 5000, 20000)))), lambda: "x: " + "y" * r.choice((9000, 70000, 300000)) + "\r\n",
                      lambda: "y" * 100000, lambda: "x: 1\r\n" * 3000 + " folded: " + "z" * 9000 + "\r\n"))()
    return raw("POST /v1/completions HTTP/1.1\r\n" + flood + "\r\n")


def bad_request_line(r):
    return raw(r.choice((
        "GET\r\n\r\n", "GET /health\r\n\r\n", "FOO /health HTTP/1.1\r\n\r\n", "GET /health HTTP/9.9\r\n\r\n", "get /health HTTP/1.1\r\n\r\n", "\r\n\r\n",
        "GET /health HTTP/1.1 x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\r\n",
        "GET /" + "a" * 9000 + " HTTP/1.1\r\n\r\n", "GET /" + "a" * 200000, "\x00" * 300 + "\r\n\r\n", "GET /?a?b HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n",
        r.randbytes(200).replace(b"\n", b"") + b"\r\n\r\n")))


def cut_off(r):
    data = r.choice((completion(), request("GET", "/metrics"), bad_chunks(r)))
    return data[:r.randrange(len(data) - 1)]


# whether the connection may close without an answer: where HTTP itself is broken, or there is no whole request
FAMILIES = {
    broken_json: False, wrong_type: False, nested: False, huge_number: False, not_a_number: False, absurd_sampling: False, invalid_utf8: False,
    lone_surrogate: False, unknown_field: False, unknown_model: False, token_ids: False, too_long: False, chat: False, oversized: False,
    lying_length: False, bad_chunks: False, encodings: False, content_types: False, wrong_key: False, paths: False, wrong_method: False, ranges: False,
    expectations: False, header_flood: True, bad_request_line: True, cut_off: True}


async def half_closed(port, data):
    """The answer to what is sent by a client that will send nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(read_reply(reader), HANG)
    finally:
        writer.close()


class Attack:
    def __init__(self, server, options):
        self.server, self.options, self.random = server, options, random.Random(options.seed)
        self.counts, self.faults, self.samples = Counter(), [], []
        self.wanted = None

    async def one(self):
        family = self.random.choice(list(FAMILIES))
        data = family(self.random)
        ends = family in (cut_off, lying_length, bad_chunks, bad_request_line) or self.random.random() < 0.1
        leaves_at_once = self.random.random() < 0.05
        try:
            if leaves_at_once:
                await exchange(self.server.port, data, leaves_after=0.001)
                self.counts["left"] += 1
                return
            reply = await (half_closed(self.server.port, data) if ends else asyncio.wait_for(exchange(self.server.port, data), HANG))
        except TimeoutError:
            self.fault(family, data, "no answer and no end")
            return
        except ConnectionError:
            reply = Reply()
        self.judge(family, data, reply)

    def judge(self, family, data, reply):
        self.counts[str(reply.status)] += 1
        if reply.status == 0:
            if not FAMILIES[family]:
                self.fault(family, data, "the connection closed without an answer")
            return
        if not 400 <= reply.status < 500:
            self.fault(family, data, f"status {reply.status}")
        elif not data.startswith(b"HEAD"):
            try:
                assert reply.json()["error"]["message"]
            except (ValueError, KeyError, AssertionError):
                self.fault(family, data, f"status {reply.status} with {reply.body[:100]!r}")

    def fault(self, family, data, what):
        self.faults.append(f"{family.__name__}: {what}: {data[:60]!r} ... {data[-80:]!r}")

    async def dribble(self, chance):
        """A client that sends a byte now and then, and comes back when it is thrown out."""
        while True:
            data = chance.choice((completion(), request("GET", "/health"), completion(prompt="x" * 5000), b"")) + b" " * 100
            writer, start = None, time.monotonic()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                for byte in data:
                    writer.write(bytes([byte]))
                    try:
                        await asyncio.wait_for(reader.read(1), chance.uniform(0.2, 3))
                        break  # an answer, or the end
                    except TimeoutError:
                        continue
                self.counts["dribbled"] += 1
            except ConnectionError:
                pass
            finally:
                if writer:
                    writer.close()
            if time.monotonic() - start > HANG + 10:
                self.faults.append(f"a slow client was borne for {time.monotonic() - start:.0f} s")

    async def check_good(self):
        reply = await asyncio.wait_for(ask(self.server.port, {**GOOD, "logprobs": 1}), 120)
        if reply.status != 200:
            self.faults.append(f"a good request got {reply.status} {reply.body[:200]!r}")
            return
        choice = reply.json()["choices"][0]
        self.wanted = self.wanted or choice
        if choice != self.wanted:
            self.faults.append(f"a good request was answered {choice}, not {self.wanted}")

    async def sample(self, done):
        for _ in range(150):  # connections that are over close in their own time
            now = await self.server.metrics()
            if self.server.descriptors() <= self.descriptors + self.options.slow + 2:
                break
            await asyncio.sleep(0.1)
        self.samples.append({"requests": done, "resident": self.server.resident(), "descriptors": self.server.descriptors(),
                             "cache_peak": now["cache_bytes_peak"]})
        print(f"{done} requests: {megabytes(self.samples[-1]['resident'])}, {self.samples[-1]['descriptors']} open files, "
              f"{len(self.faults)} faults", flush=True)

    async def run(self):
        await self.check_good()
        self.descriptors = self.server.descriptors()
        slow = [asyncio.create_task(self.dribble(random.Random(f"slow {i}"))) for i in range(self.options.slow)]
        step = max(1, self.options.requests // 10)
        for first in range(0, self.options.requests, step):
            left = iter(range(step))
            await asyncio.gather(*(self.worker(left) for _ in range(self.options.at_once)))
            if not self.server.is_up():
                self.faults.append(f"the server is down: {self.server.process.poll()}: {self.server.said()[-500:]}")
                return
            await self.check_good()
            await self.sample(first + step)
        for task in slow:
            task.cancel()

    async def worker(self, left):
        for _ in left:
            if not self.server.is_up():
                return
            await self.one()

    def result(self):
        growth = max((sample["resident"] for sample in self.samples[1:]), default=0) - self.samples[0]["resident"] if self.samples else 0
        files = max((sample["descriptors"] for sample in self.samples), default=0)
        if growth > MOST_GROWTH:
            self.faults.append(f"the memory grew by {megabytes(growth)} after the first tenth")
        if files > self.descriptors + self.options.slow + 2:
            self.faults.append(f"{files} open files, {self.descriptors} before")
        return {"requests": self.options.requests, "answers": dict(self.counts), "growth": growth, "samples": self.samples, "faults": self.faults}


async def main():
    options = arguments()
    with Server(options.kvsmith, options.checkpoint, "--cache-budget", "4MiB", "--max-body", f"{MOST_BODY}B", "--threads", options.threads) as server:
        attack = Attack(server, options)
        await attack.run()
        result = attack.result()
    if server.exit_code != 0:
        result["faults"].append(f"the server ended with {server.exit_code}")
    print(f"{options.requests} malformed requests: " + ", ".join(f"{name} {count}" for name, count in sorted(result["answers"].items())))
    print(f"memory grew by {megabytes(result['growth'])} after the first tenth; {len(result['faults'])} faults")
    for kind, count in Counter(fault.partition(":")[0] + fault.partition(":")[2].partition(":")[0] for fault in result["faults"]).most_common():
        print(f"  {count} x {kind}")
    for fault in result["faults"][:30]:
        print(f"  {fault}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    asyncio.run(main())
