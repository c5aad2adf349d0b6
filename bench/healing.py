"""Converts one pretrained model to several architectures, heals each with and without its teacher, and writes
one table. Interrupt it at will: run again, it goes on where it was; what RESULTS already has is not run again.

Usage: healing.py KVSMITH SOURCE NOVELS RESULTS --work DIR [--wikitext test.txt] [--tokens 300000]
                  [--only mqa cla-2 ...] [--heal kd ce] [--set section.key=value ...]

SOURCE is a checkpoint made by `kvsmith import`, NOVELS a folder with train/ and valid/, RESULTS a JSON file of
figures. Checkpoints and corpora go to the work directory. Perplexities are of the first EVALUATED tokens of the
validation text and of the other text, whole windows of CONTEXT tokens in one pass; the conversion sees
CALIBRATION tokens of the training texts' first file.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 1024
EVALUATED = 16384
CALIBRATION = 8192
VALIDATED = 4096

# name: recipe, and what it sets
CONVERSIONS = {
    "bounded": ("bounded", "sliding_window=256", "num_slots=64", "num_sink_tokens=4"),
    "local-global": ("local-global", "sliding_window=512"),
    "cla-2": ("cla",),
    "mqa": ("mqa",),
    "lckv-10": ("lckv", "lckv_warmup_layers=10"),
    "mla-128-32": ("mla", "kv_lora_rank=128", "qk_rope_head_dim=32"),
    "mla-64-16": ("mla", "kv_lora_rank=64", "qk_rope_head_dim=16"),
    "yoco": ("yoco", "sliding_window=512"),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kvsmith")
    parser.add_argument("source", type=Path)
    parser.add_argument("novels", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--wikitext", type=Path)
    parser.add_argument("--tokens", type=float, default=300_000)
    parser.add_argument("--only", nargs="*", choices=[*CONVERSIONS, "source"], default=["source", *CONVERSIONS])
    parser.add_argument("--heal", nargs="*", choices=["kd", "ce"], default=["kd", "ce"])
    parser.add_argument("--set", nargs="*", default=[], help="more settings of the training runs")
    return parser.parse_args()


class Healing:
    def __init__(self, options):
        self.options = options
        self.work = options.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.figures = json.loads(options.results.read_text()) if options.results.exists() else {}
        self.texts = {"novels": self.corpus("novels", options.novels / "train", next((options.novels / "valid").glob("*.txt")))}
        if options.wikitext:
            self.texts["wikitext"] = self.corpus("wikitext", options.wikitext, options.wikitext)

    def run(self, *words):
        subprocess.run([self.options.kvsmith, *map(str, words)], check=True)

    def corpus(self, name, train, valid):
        path = self.work / f"{name}.h5"
        if not path.exists():
            self.run("data", "build", train, "--valid", valid, "--tokenizer", self.options.source / "tokenizer.json",
                     "--output", path, "-q")
        return path

    def note(self, key, figures):
        """Keeps the figures of one model, at once."""
        self.figures[key] = figures
        temporary = self.options.results.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.figures, indent=1) + "\n")
        os.replace(temporary, self.options.results)

    def evaluate(self, key, checkpoint, figures):
        for text, corpus in self.texts.items():
            path = self.work / f"{key.replace('/', '-')}.json"
            # healing changes no bytes, and another text none either
            known = ["--skip-lengths"] if "/" in key or "cache" in figures else []
            self.run("evaluate", checkpoint, "--corpus", corpus, "--context", CONTEXT, "--max-tokens", EVALUATED,
                     "--protocol", "parallel", "--batch", 2, "--name", key, "--json", path, "--force", "-q", *known)
            result = json.loads(path.read_text())
            figures[text] = {name: result[name] for name in ("perplexity", "bits_per_byte", "tokens", "split")}
            figures["parameters"] = result["parameters"]
            if not known:
                figures["cache"] = {"dtype": result["cache"]["dtype"], "at_8k": result["cache"]["bytes_at_8k"],
                                    "lengths": result["cache"]["lengths"]}
        self.note(key, figures)

    def converted(self, name):
        if name == "source":
            return self.options.source
        path = self.work / name
        if not path.exists():
            recipe, *settings = CONVERSIONS[name]
            self.run("convert", self.options.source, "--to", ROOT / f"configs/architectures/{recipe}.toml",
                     *[word for pair in settings for word in ("--set", f"model.{pair}")],
                     "--calibration", sorted((self.options.novels / "train").glob("*.txt"))[0],
                     "--calibration-tokens", CALIBRATION, "--output", path, "-q")
        return path

    def heal(self, name, how):
        tokens = int(self.options.tokens)
        key = f"{name}/{how}/{tokens}"
        if key in self.figures:
            return
        checkpoint = self.converted(name)
        run = self.work / key.replace("/", "-")
        settings = [f"data.corpus={self.texts['novels']}", f"train.init_from={checkpoint}", f"train.max_tokens={tokens}", f"train.validate_tokens={VALIDATED}"]
        if how == "kd":
            settings += [f"distill.teacher={self.options.source}", "distill.top_k=64", f"distill.cache={self.work / 'teacher'}"]
        words = [word for pair in [*settings, *self.options.set] for word in ("--set", pair)]
        self.run("train", checkpoint / "config.toml", ROOT / "configs/heal.toml", "--output", run, "-q", *words)
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        validations = [[step["tokens"], step["validation_loss"]] for step in steps if "validation_loss" in step]
        seconds = sum(steps[0]["tokens"] / step["tokens_per_second"] for step in steps)
        self.evaluate(key, run, {"tokens": steps[-1]["tokens"], "seconds": round(seconds),
                                 "validation_loss": validations, "learning_rate": max(s["learning_rate"] for s in steps)})


def thousands(number):
    return f"{number:,.0f}"


def perplexities(figures):
    if not figures:
        return ["-", "-"]
    return [f"{figures[text]['perplexity']:.2f}" if text in figures else "-" for text in ("novels", "wikitext")]


def table(figures):
    """Markdown: a line for each conversion, as far as it is measured."""
    head = ["model", "bytes/token at 1k", "MiB at 8k", "converted: novels", "WikiText-2", "healed: novels", "WikiText-2",
            "distilled: novels", "WikiText-2", "tokens"]
    lines = [head, ["---"] * len(head)]
    lengths = sorted({int(key.split("/")[2]) for key in figures if "/" in key}) or [0]
    for name in ["source", *CONVERSIONS]:
        if name not in figures:
            continue
        cache = figures[name]["cache"]
        at_context = next(l["bytes_measured"] for l in cache["lengths"] if l["tokens"] == CONTEXT)
        for tokens in lengths:
            healed = [figures.get(f"{name}/{how}/{tokens}") for how in ("ce", "kd")]
            if not any(healed) and tokens != lengths[0]:
                continue
            lines.append([name, thousands(at_context / CONTEXT), f"{cache['at_8k'] / 2**20:.1f}", *perplexities(figures[name]),
                          *perplexities(healed[0]), *perplexities(healed[1]), thousands(tokens) if any(healed) else "-"])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def main():
    options = arguments()
    healing = Healing(options)
    for how in options.heal or [None]:  # none: conversions are measured and not healed
        for name in options.only:
            if name not in healing.figures:
                healing.evaluate(name, healing.converted(name), {})
            if how:
                healing.heal(name, how)
    text = table(healing.figures)
    (options.work / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
