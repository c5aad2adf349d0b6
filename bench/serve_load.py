"""`serve` under load: clients with random prompts, streams and departures, every answer held to the one that its prompt gets alone.

Usage: bench/serve_load.py KVSMITH CHECKPOINT [--clients 64] [--seconds 60] [--cache-budget 16MiB] [--json OUT]

Asks every prompt of a pool alone, greedily, with log-probabilities, then with one client, then with all of them; and all of that
load again with half the budget. Exit code 1 when an answer is lost or wrong, when caches exceed the budget or are not given back, or
when the server does not end well. Needs nothing beside Python; seeded.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

from serve_client import Server, ask, megabytes

NEAR = 1e-3  # nats: differences of rounding, in batches of other sizes
WORDS = ("the of and a to in that was he his it with as had for you not be her on at by which have or from this him but all she "
         "they were are my me one their so an said them we who would been will no when there if more out up into do any your").split()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kvsmith"), parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cache-budget", default="16MiB")
    parser.add_argument("--cache", nargs="+", default=["full"], help="method and settings, as of `kvsmith serve`")
    parser.add_argument("--prompts", type=int, default=48, help="in the pool")
    parser.add_argument("--longest-prompt", type=int, default=256, help="in tokens, about")
    parser.add_argument("--max-tokens", type=int, default=48, help="most that are asked for")
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Fingerprint:
    """Tokens of an answer and their log-probabilities: tells prompts apart even where they are continued alike."""

    def __init__(self, logprobs):
        self.tokens, self.scores, self.top = (logprobs[key] for key in ("tokens", "token_logprobs", "top_logprobs"))

    def agreement(self, answer):
        """First tokens of the answer that are here too, with their scores."""
        pairs = zip(self.tokens, self.scores, answer.tokens, answer.scores)
        return next((i for i, (a, x, b, y) in enumerate(pairs) if a != b or abs(x - y) > NEAR), min(len(self.tokens), len(answer.tokens)))

    def is_tie(self, answer, place):
        """The answer took at `place` a token that was as likely here, up to rounding."""
        likely = self.top[place]
        return likely.get(answer.tokens[place], -1e9) > max(likely.values()) - NEAR


class Pool:
    """Prompts, and what each is answered alone."""

    def __init__(self, options):
        self.options, self.prompts, self.references = options, [], []

    async def fill(self, port, random):
        """Some prompts begin like others. Prompts whose references are too alike to tell a mix-up are left out."""
        probe = (await ask(port, {"prompt": " ".join(WORDS), "max_tokens": 1})).json()
        longest = self.options.longest_prompt * len(WORDS) // probe["usage"]["prompt_tokens"]
        while len(self.prompts) < self.options.prompts:
            start = random.choice(self.prompts).split() if self.prompts and random.random() < 0.3 else []
            size = int(3 * (longest / 3) ** random.random())
            prompt = " ".join((start + random.choices(WORDS, k=size))[:longest])
            # asked with its own scores it is read from its beginning, whatever was there before
            whole = (await ask(port, {"prompt": prompt, "max_tokens": self.options.max_tokens, "temperature": 0, "echo": True,
                                      "logprobs": 2})).json()
            read = whole["usage"]["prompt_tokens"]
            reference = Fingerprint({key: values[read:] for key, values in whole["choices"][0]["logprobs"].items()})
            if all(other.agreement(reference) == 0 for other in self.references):
                self.prompts.append(prompt), self.references.append(reference)

    def verdict(self, index, answer, asked):
        """right, tie, or wrong, and why."""
        own = self.references[index]
        agreed = own.agreement(answer)
        wanted = min(asked, len(own.tokens))
        if agreed == wanted == len(answer.tokens):
            return "right", ""
        nearest = max(range(len(self.references)), key=lambda i: self.references[i].agreement(answer))
        if self.references[nearest].agreement(answer) > agreed:
            return "mixed up", f"prompt {index} was answered like {nearest}"
        if agreed < min(wanted, len(answer.tokens)) and own.is_tie(answer, agreed):
            return "tie", ""
        return "wrong", (f"prompt {index}: {len(answer.tokens)} tokens for {wanted}, {agreed} of them agree: "
                         f"{answer.tokens[agreed:agreed + 2]} for {own.tokens[agreed:agreed + 2]}, "
                         f"{answer.scores[agreed:agreed + 2]} for {own.scores[agreed:agreed + 2]}")


def answer_of(reply):
    """Of a whole or streamed answer; none where it has not come to its end."""
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return Fingerprint(reply.json()["choices"][0]["logprobs"])
    events = [line.removeprefix("data: ") for line in reply.body.decode().splitlines() if line]
    if not events or events[-1] != "[DONE]":
        return None
    parts = [json.loads(event)["choices"][0]["logprobs"] for event in events[:-1]]
    return Fingerprint({key: sum((part[key] for part in parts), []) for key in ("tokens", "token_logprobs", "top_logprobs")})


class Load:
    """What clients do and see in one run."""

    def __init__(self, server, pool, options):
        self.server, self.pool, self.options = server, pool, options
        self.counts, self.notes, self.samples, self.tokens = Counter(), [], [], 0

    async def one_request(self, random, client, may_leave):
        index, size = random.randrange(len(self.pool.prompts)), random.randint(1, self.options.max_tokens)
        body = {"prompt": self.pool.prompts[index], "max_tokens": size, "temperature": 0, "logprobs": 2,
                "stream": random.random() < 0.4, "user": f"client {client}"}
        leaves_after = random.uniform(0.01, 3) if may_leave and random.random() < 0.15 else None
        reply = await ask(self.server.port, body, leaves_after)
        self.counts["sent"] += 1
        if reply.status in (429, 503) and reply.headers.get("retry-after"):
            self.counts["refused"] += 1
            await asyncio.sleep(random.uniform(0.1, 0.5))
        elif reply.status == 200 and reply.is_whole and (answer := answer_of(reply)):
            verdict, note = self.pool.verdict(index, answer, size)
            self.counts["finished"] += 1
            self.counts[verdict] += 1
            self.notes += [note] if note else []
            self.tokens += len(answer.tokens)
        elif leaves_after and reply.status in (0, 200):
            self.counts["cancelled"] += 1
        else:
            self.counts["lost"] += 1
            self.notes.append(f"prompt {index}: status {reply.status}, {reply.body[-200:]!r}")

    async def client(self, number, until, may_leave):
        # seeded by a text: hash() of a tuple would differ between runs
        chance = random.Random(f"{self.options.seed} {number}")
        while time.monotonic() < until and self.server.is_up():
            await self.one_request(chance, number, may_leave)

    async def watch(self):
        while True:
            now = await self.server.metrics()
            self.samples.append({"seconds": time.monotonic(), "resident": self.server.resident(), **now})
            await asyncio.sleep(0.25)

    async def run(self, clients, seconds, may_leave=True):
        """Tokens of whole answers a second, and new tokens a second of processors."""
        before, cpu = await self.server.metrics(), self.server.cpu_seconds()
        watching = asyncio.create_task(self.watch())
        start = time.monotonic()
        await asyncio.gather(*(self.client(i, start + seconds, may_leave) for i in range(clients)))
        seconds, cpu = time.monotonic() - start, self.server.cpu_seconds() - cpu
        watching.cancel()
        generated = (await self.server.metrics())["generated_tokens_total"] - before["generated_tokens_total"]
        return {"by_clock": self.tokens / seconds, "by_processor": generated / cpu}

    def by_tenth(self, name):
        """The most in each tenth of the time."""
        step = -(-len(self.samples) // 10)
        return [max(sample[name] for sample in self.samples[i:i + step]) for i in range(0, len(self.samples), step)]

    async def given_back(self):
        """Whether the texts of all clients are over, and their bytes free, within a while."""
        for _ in range(100):
            now = await self.server.metrics()
            if now["requests_running"] == now["requests_queued"] == 0 and now["cache_bytes"] == now["cache_kept_bytes"]:
                return True
            await asyncio.sleep(0.1)
        return False


def served(options, budget):
    return Server(options.kvsmith, options.checkpoint, "--cache-budget", budget, "--max-sequences", options.clients,
                  "--max-connections", options.clients + 8, "--threads", options.threads, "--cache", *options.cache)


async def one_client(options, pool, chance):
    """Fills the pool, and returns the speed of one client."""
    with served(options, options.cache_budget) as server:
        await pool.fill(server.port, chance)
        load = Load(server, pool, options)
        speed = await load.run(1, max(1, options.seconds / 4), may_leave=False)
    assert load.counts["finished"] == load.counts["right"], load.notes
    return speed


async def all_clients(options, pool, budget, alone):
    """The figures of one run, and whether it is as it should be."""
    with served(options, budget) as server:
        idle = server.resident()
        load = Load(server, pool, options)
        together = await load.run(options.clients, options.seconds)
        is_given_back = await load.given_back()
        after = await server.metrics()
    of = lambda name: max(sample[name] for sample in load.samples)
    budget_bytes = after["cache_budget_bytes"]
    result = {"clients": options.clients, "budget": budget_bytes, **{name: load.counts[name] for name in
              ("sent", "finished", "cancelled", "refused", "lost", "wrong", "mixed up", "tie")},
              "cache_peak": after["cache_bytes_peak"], "promised_peak": of("cache_promised_bytes"),
              "running_peak": of("requests_running"), "queued_peak": of("requests_queued"),
              "reused_tokens": after["prompt_tokens_reused_total"], "resident_idle": idle, "resident_peak": of("resident"),
              "resident_by_tenth": load.by_tenth("resident"),
              "tokens_per_second": together, "tokens_per_second_alone": alone, "given_back": is_given_back,
              "exit_code": server.exit_code, "notes": load.notes[:20]}
    result["is_good"] = (result["finished"] > 0 and not any(result[name] for name in ("lost", "wrong", "mixed up", "exit_code"))
                         and is_given_back and max(result["cache_peak"], result["promised_peak"]) <= budget_bytes)
    return result


def show(result):
    print(f"{result['clients']} clients, budget {megabytes(result['budget'])}: " +
          ", ".join(f"{result[name]} {name}" for name in ("sent", "finished", "cancelled", "refused", "lost", "wrong", "mixed up", "tie")))
    print(f"  caches at most {megabytes(result['cache_peak'])} ({result['cache_peak'] / result['budget']:.0%} of the budget), promised "
          f"{megabytes(result['promised_peak'])}; at most {result['running_peak']:.0f} texts in a step, {result['queued_peak']:.0f} waiting")
    print(f"  process {megabytes(result['resident_idle'])} idle, at most {megabytes(result['resident_peak'])}, by tenths of the time "
          + ", ".join(megabytes(bytes) for bytes in result["resident_by_tenth"]))
    together, alone = result["tokens_per_second"], result["tokens_per_second_alone"]
    for kind, name in {"by_clock": "by the clock", "by_processor": "of processors"}.items():
        print(f"  {together[kind]:.0f} tokens/s {name}, one client {alone[kind]:.0f}: {together[kind] / alone[kind]:.2f} times")
    for note in result["notes"]:
        print(f"  {note}")


async def main():
    options = arguments()
    chance = random.Random(options.seed)
    pool = Pool(options)
    alone = await one_client(options, pool, chance)
    whole = await all_clients(options, pool, options.cache_budget, alone)
    show(whole)
    half = await all_clients(options, pool, f"{int(whole['budget'] // 2)}B", alone)
    show(half)
    if options.json:
        options.json.write_text(json.dumps([whole, half], indent=1) + "\n")
    sys.exit(0 if whole["is_good"] and half["is_good"] else 1)


if __name__ == "__main__":
    asyncio.run(main())
