"""Training speed of kvsmith beside plain PyTorch eager with the same shapes, in one run.

Usage: .venv/bin/python bench/train_vs_pytorch.py KVSMITH CONFIG CORPUS [--steps N] [--rounds N]

Both train the model of CONFIG with AdamW (fused), the same batch and sequence length, the same thread
count and the same memory allocator, in turns; the peer reads random tokens. Prints medians of
tokens/s over all steps but the first of each turn, and the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path


def allocator_of(binary):
    """The environment in which another program takes its memory from what `binary` is linked with."""
    libraries = (line.split() for line in subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout.splitlines())
    return {"LD_PRELOAD": next((words[2] for words in libraries if "tcmalloc" in words[0]), "")}


def peer(config, steps, precision):
    """Plain PyTorch: the Llama of `config`, eager, bf16 through autocast. Prints tokens/s per step."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    model_config, train = config["model"], config["train"]
    width, heads, kv_heads = (model_config[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    head_dim = model_config["head_dim"]
    cos, sin = None, None

    def rotate(x):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
            self.q, self.o = nn.Linear(width, heads * head_dim, False), nn.Linear(heads * head_dim, width, False)
            self.k, self.v = (nn.Linear(width, kv_heads * head_dim, False) for _ in range(2))
            inner = model_config["intermediate_size"]
            self.gate, self.up = nn.Linear(width, inner, False), nn.Linear(width, inner, False)
            self.down = nn.Linear(inner, width, False)

        def forward(self, x):
            h = self.norm1(x)
            split = lambda t: t.unflatten(-1, (-1, head_dim)).transpose(1, 2)
            q, k, v = rotate(split(self.q(h))), rotate(split(self.k(h))), split(self.v(h))
            q, k = q.to(v.dtype), k.to(v.dtype)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + self.o(mixed.transpose(1, 2).flatten(2))
            h = self.norm2(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Llama(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(model_config["vocab_size"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(model_config["num_hidden_layers"]))
            self.norm = nn.RMSNorm(width, 1e-5)

        def forward(self, ids):
            x = self.embed(ids)
            for block in self.blocks:
                x = block(x)
            return F.linear(self.norm(x), self.embed.weight)

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    length, batch = train["sequence_length"], train["batch_size"]
    micro = train["micro_batch_size"] or batch
    angle = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()
    model = Llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for _ in range(steps):
        start = time.perf_counter()
        ids = torch.randint(0, model_config["vocab_size"], (batch, length + 1))
        optimizer.zero_grad()
        for part in ids.split(micro):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(part[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
            (loss / (batch * length)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(batch * length / (time.perf_counter() - start))


def ours(binary, arguments, steps, precision):
    with tempfile.TemporaryDirectory() as folder:
        settings = (f"train.max_steps={steps}", "train.max_tokens=0", f"train.precision={precision}", "train.warmup_steps=1",
                    "train.checkpoint_every=0", "train.validate_every=0", "data.validation_split=none",
                    "train.peak_flops=1e12", "train.tensorboard=false")
        flags = [word for setting in settings for word in ("--set", setting)]
        subprocess.run([binary, "train", *arguments, *flags, "--output", f"{folder}/run", "--quiet"], check=True)
        lines = Path(folder, "run/metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["tokens_per_second"] for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary"), parser.add_argument("config"), parser.add_argument("corpus")
    parser.add_argument("--steps", type=int, default=8), parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    arguments = [args.config, "--set", f"data.corpus={args.corpus}"]
    if args.peer:
        peer(json.loads(sys.stdin.read()), args.steps, args.peer)
        return
    resolved = subprocess.run([args.binary, "train", *arguments, "--dry-run"], check=True, capture_output=True, text=True).stdout
    config = tomllib.loads(resolved[: resolved.index("\nmodel  ")])
    environment = os.environ | allocator_of(args.binary)
    for precision in ("fp32", "bf16"):
        speeds = {"kvsmith": [], "PyTorch eager": []}
        for _ in range(args.rounds):
            speeds["kvsmith"] += ours(args.binary, arguments, args.steps, precision)[1:]
            lines = subprocess.run([sys.executable, __file__, args.binary, args.config, args.corpus, "--steps", str(args.steps),
                                    "--peer", precision], input=json.dumps(config), env=environment,
                                   check=True, capture_output=True, text=True).stdout.split()
            speeds["PyTorch eager"] += [float(line) for line in lines[1:]]
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        ratio = medians["kvsmith"] / medians["PyTorch eager"]
        print(f"{precision}: " + ", ".join(f"{name} {value:,.0f} tokens/s" for name, value in medians.items()) + f", ratio {ratio:.2f}")


main()
