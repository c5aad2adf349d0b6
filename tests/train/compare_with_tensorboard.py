"""TensorBoard itself must read from a run's event files what metrics.jsonl says.

Usage: compare_with_tensorboard.py KVSMITH
Exit code 77 (skipped) when tensorboard is not installed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

CONFIG = """
[model]
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
[data]
corpus = "{corpus}"
[train]
max_steps = {steps}
batch_size = 2
sequence_length = 16
warmup_steps = 2
lr_scheduler = "constant"
validate_every = 10
"""


def main(binary):
    def kvsmith(*arguments):
        subprocess.run([binary, *map(str, arguments), "--quiet"], check=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "t.txt").write_text("".join(f"line {i}, and {i * i} more\n" for i in range(2000)))
        kvsmith("tokenizer", "train", folder / "t.txt", "--vocab-size", 300, "--output", folder / "t.model")
        kvsmith("data", "build", folder / "t.txt", "--valid", folder / "t.txt", "--tokenizer", folder / "t.model",
                "--output", folder / "c.h5")
        for steps in (20, 30):  # the second run resumes the first: steps must not appear twice
            (folder / "run.toml").write_text(CONFIG.format(corpus=folder / "c.h5", steps=steps))
            kvsmith("train", folder / "run.toml", "--output", folder / "run", "--accept", "train.max_steps")
        lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        events = EventAccumulator(str(folder / "run/tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        for tag, key in (("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("validation/loss", "validation_loss")):
            wanted = [(line["step"], line[key]) for line in lines if key in line]
            found = [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]
            assert [step for step, _ in found] == [step for step, _ in wanted], (tag, found)
            for (step, value), (_, truth) in zip(found, wanted):
                assert abs(value - truth) <= 1e-6 * max(1, abs(truth)), (tag, step, value, truth)
            print(f"{tag}: {len(found)} scalars, equal to metrics.jsonl")


main(sys.argv[1])
