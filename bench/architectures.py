"""Trains every architecture of configs/architectures at one size on the same tokens, evaluates each
and writes one report and one table. Interrupt it at will: run again, it goes on where it was.

Usage: architectures.py KVSMITH CORPUS OUTPUT [--size 15m] [--tokens 4e6] [--only mha gqa ...]
                        [--also NAME=TEXT ...] [--speed-of NAME ...] [--set section.key=value ...]

All models get the parameters of GQA: what a design saves goes into its feed-forward width. Each TEXT
is one more corpus to evaluate on, out of domain, made with the tokenizer of CORPUS. Training speed is
measured apart, in rounds over all of them, so that a noisy machine is unfair to none; it wants the
machine for itself.
"""

import argparse
import functools
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 512
DTYPE = "bf16"
ROUNDS = 5
STEPS = 6
COSTS = ["training tokens/s", "time, gqa = 1", "FLOPs, gqa = 1"]


def named_text(word):
    name, _, path = word.rpartition("=")
    return name or Path(path).stem, Path(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kvsmith")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", default="15m")
    parser.add_argument("--tokens", type=float, default=4e6)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--also", nargs="*", type=named_text, default=[])
    parser.add_argument("--speed-of", nargs="*", default=[], help="measured for training speed only")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--evaluate-tokens", type=int, default=65536)
    return parser.parse_args()


def settings(pairs):
    return [word for pair in pairs for word in ("--set", pair)]


class Sweep:
    def __init__(self, options):
        self.options = options
        self.base = [f"data.corpus={options.corpus}", *options.set]
        self.reference = self.estimate("gqa")

    def run(self, *words):
        subprocess.run([self.options.kvsmith, *map(str, words)], check=True)

    def configs(self, name):
        return [ROOT / f"configs/sizes/{self.options.size}.toml", ROOT / f"configs/architectures/{name}.toml"]

    def estimate(self, name, *extra):
        command = [self.options.kvsmith, "estimate", *map(str, self.configs(name)), "--json", *settings([*self.base, *extra])]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    @functools.cache
    def equal_parameters(self, name):
        """The feed-forward width with which `name` has the parameters of GQA."""
        width = {}
        for inner in (1024, 1032):
            width[inner] = self.estimate(name, f"model.intermediate_size={inner}")["parameters"]
        step = (width[1032] - width[1024]) // 8
        inner = 1024 + (self.reference["parameters"] - width[1024]) / step
        return f"model.intermediate_size={max(8, round(inner / 8) * 8)}"

    @functools.cache
    def flops(self, name):
        """Of a token in training, by the formula."""
        return self.estimate(name, self.equal_parameters(name))["training"]["flops_per_token"]

    def train(self, name):
        run = self.options.output / name
        extra = [self.equal_parameters(name), f"train.max_tokens={int(self.options.tokens)}", "train.log_every=50"]
        self.run("train", *self.configs(name), "--output", run, *settings([*self.base, *extra]))
        return run

    def evaluate(self, run, corpus, json_path, *words):
        if not json_path.exists() or json.loads(json_path.read_text())["cache"]["dtype"] != DTYPE:
            self.run("evaluate", run, "--corpus", corpus, "--context", CONTEXT, "--max-tokens", self.options.evaluate_tokens,
                     "--batch", 64, "--dtype", DTYPE, "--name", run.name, "--json", json_path, "--force", "-q", *words)
        return json.loads(json_path.read_text())

    def other_corpus(self, name, text):
        path = self.options.output / f"{name}.h5"
        if not path.exists():
            tokenizer = next(self.options.output.glob("*/latest/tokenizer.model"))
            self.run("data", "build", text, "--valid", text, "--tokenizer", tokenizer, "--output", path, "-q")
        return path

    def speeds(self, names):
        """Tokens a second of the fastest of several short runs, in rounds over all architectures: what else the
        machine does only ever slows a run down."""
        path = self.options.output / "speeds.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        for done in range(ROUNDS):
            for name in {"gqa": None, **dict.fromkeys(names)}:
                if len(known.setdefault(name, [])) <= done:
                    known[name].append(self.speed(name))
                    path.write_text(json.dumps(known, indent=2))
        return {name: max(speeds) for name, speeds in known.items()}

    def speed(self, name):
        extra = [self.equal_parameters(name), f"train.max_steps={STEPS}", "train.max_tokens=0", "train.warmup_steps=1",
                 "train.threads=0", "train.log_every=1", "train.validate_every=0", "train.checkpoint_every=0",
                 "train.validate_tokens=1", "train.peak_flops=1e12", "train.tensorboard=false"]
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / name
            self.run("train", *self.configs(name), "--output", run, "-q", *settings([*self.base, *extra]))
            steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return statistics.median(step["tokens_per_second"] for step in steps[2:])


def cost(sweep, name, speeds):
    return [f"{speeds[name]:,.0f}", f"{speeds['gqa'] / speeds[name]:.2f}", f"{sweep.flops(name) / sweep.flops('gqa'):.2f}"]


def row(sweep, run, speeds):
    home = sweep.evaluate(run, sweep.options.corpus, run / "evaluation.json", "--recall")
    others = [sweep.evaluate(run, sweep.other_corpus(*text), run / f"{text[0]}.eval") for text in sweep.options.also]
    at = {point["tokens"]: point["bytes_measured"] for point in home["cache"]["lengths"]}
    recall = {point["distance"]: point["gain"] for point in home["recall"]}
    return [run.name, home["architecture"], f"{home['parameters'] / 1e6:.2f}M", f"{home['perplexity']:.2f}",
            *[f"{other['perplexity']:.1f}" for other in others], f"{at[4 * CONTEXT] / 1024:,.0f}",
            f"{home['cache']['bytes_at_8k'] / 1024:,.0f}", f"{recall[0]:.2f}", f"{recall[256]:.2f}",
            *cost(sweep, run.name, speeds)]


def markdown(head, rows):
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [head, ["---"] * len(head), *rows])


def main():
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    names = options.only or sorted(path.stem for path in (ROOT / "configs/architectures").glob("*.toml"))
    sweep = Sweep(options)
    runs = [sweep.train(name) for name in names]
    speeds = sweep.speeds([*names, *options.speed_of])
    head = ["name", "architecture", "parameters", "perplexity", *[name for name, _ in options.also],
            "KiB at 2k", "KiB at 8k", "recall at 0", "recall at 256", *COSTS]
    table = markdown(head, [row(sweep, run, speeds) for run in runs])
    if options.speed_of:
        table += "\n" + markdown(["name", *COSTS], [[name, *cost(sweep, name, speeds)] for name in options.speed_of])
    (options.output / "table.md").write_text(table)
    print(table)
    sweep.run("report", *runs, "--title", f"Architectures at {options.size}", "--output", options.output / "report.html", "--force")


if __name__ == "__main__":
    main()
