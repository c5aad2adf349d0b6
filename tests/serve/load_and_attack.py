"""A short slice of bench/serve_load.py and bench/serve_malformed.py, on a tiny model.

Usage: load_and_attack.py KVSMITH
"""

import subprocess
import sys
import tempfile
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"
CONFIG = """
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 256
[data]
corpus = "{corpus}"
[train]
max_steps = 40
batch_size = 4
sequence_length = 32
warmup_steps = 2
learning_rate = 1e-2
"""


def train(binary, folder):
    def kvsmith(*arguments):
        subprocess.run([binary, *map(str, arguments), "--quiet"], check=True)

    (folder / "t.txt").write_text("".join(f"line {i}, and {i * i} more of the night\n" for i in range(2000)))
    kvsmith("tokenizer", "train", folder / "t.txt", "--vocab-size", 300, "--output", folder / "t.model")
    kvsmith("data", "build", folder / "t.txt", "--valid", folder / "t.txt", "--tokenizer", folder / "t.model",
            "--output", folder / "c.h5")
    (folder / "run.toml").write_text(CONFIG.format(corpus=folder / "c.h5"))
    kvsmith("train", folder / "run.toml", "--output", folder / "run")
    return folder / "run"


def main(binary):
    with tempfile.TemporaryDirectory() as name:
        run = train(binary, Path(name))
        for words in ("serve_load.py --clients 8 --seconds 3 --cache-budget 256KiB --prompts 12 --longest-prompt 100 --max-tokens 24",
                      "serve_load.py --clients 8 --seconds 3 --cache-budget 64KiB --prompts 12 --longest-prompt 100 --max-tokens 24 "
                      "--cache h2o budget_tokens=40 protect_sinks=2",
                      "serve_malformed.py --requests 500 --slow 4"):
            script, *options = words.split()
            subprocess.run([sys.executable, BENCH / script, binary, run, *options], check=True)


main(sys.argv[1])
