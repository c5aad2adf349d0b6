"""Perplexity of a GGUF model on a text, by kvsmith and by stock transformers, which dequantises the same file.

Usage: .venv-test/bin/python bench/perplexity_vs_transformers.py KVSMITH MODEL.gguf TEXT [--context 1024] [--tokens 65536]

Protocol of both: the text as one document without begin- or end-of-text, cut into windows of `context` tokens
that do not overlap; every token is scored but the first, with the tokens before it in its window as context (the
last token of a window predicts the first of the next). fp32. Token ids are compared too.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from gguf import GGUFReader
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kvsmith")
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=65536)
    return parser.parse_args()


def by_kvsmith(options, folder):
    """Its token ids of the text, and what it reports."""
    def run(*words):
        return subprocess.run([options.kvsmith, *map(str, words)], check=True, capture_output=True, text=True).stdout

    run("import", options.model, "--output", folder / "model", "-q")
    tokenizer = folder / "model/tokenizer.json"
    run("data", "build", options.text, "--valid", options.text, "--tokenizer", tokenizer, "--output", folder / "c.h5", "-q")
    run("evaluate", folder / "model", "--corpus", folder / "c.h5", "--context", options.context, "--protocol", "parallel",
        "--batch", 4, "--max-tokens", options.tokens, "--json", folder / "e.json", "-q")
    zero_terminated = folder / "text"
    zero_terminated.write_bytes(options.text.read_bytes() + b"\0")
    ids = run("tokenizer", "encode", tokenizer, zero_terminated, "--null")
    return [int(word) for word in ids.split()], json.loads((folder / "e.json").read_text())


def tokenizer_by_transformers(path):
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    pre = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if pre and pre.contents() == "smollm":
        # not in transformers' list, which gives it GPT-2's: " ½" in one piece, where SmolLM2 parts digits first
        digits = Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([digits, ByteLevel(add_prefix_space=False)])
    return tokenizer


def model_by_transformers(path):
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, surplus = model.load_state_dict(tensors, strict=False)
    assert not surplus and set(missing) <= {"lm_head.weight"}, (missing, surplus)
    return model


def perplexity_by_transformers(options, ids, scored):
    model = model_by_transformers(options.model)
    nll = 0.0
    with torch.no_grad():
        for first in range(0, scored, options.context):
            count = min(options.context, scored - first)
            window = torch.tensor(ids[first : first + count + 1])
            logits = model(window[None, :-1]).logits[0]
            nll += torch.nn.functional.cross_entropy(logits.double(), window[1:], reduction="sum").item()
    return math.exp(nll / scored)


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        ours, evaluation = by_kvsmith(options, Path(folder))
    tokenizer = tokenizer_by_transformers(options.model)
    theirs = tokenizer(options.text.read_bytes().decode(), add_special_tokens=False)["input_ids"]
    differ = sum(a != b for a, b in zip(ours, theirs)) + abs(len(ours) - len(theirs))
    scored = evaluation["tokens"]
    wanted = perplexity_by_transformers(options, ours, scored)
    got = evaluation["perplexity"]
    print(f"{options.text.name}: {len(ours)} tokens, {differ} differ from transformers' tokenizer")
    print(f"{scored} tokens scored, context {options.context}, no overlap, no begin-of-text")
    print(f"perplexity: kvsmith {got:.6f}, transformers {wanted:.6f}, relative difference {abs(got / wanted - 1):.1e}")


if __name__ == "__main__":
    main()
