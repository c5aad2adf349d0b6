"""Texts that a GGUF file continues greedily, by kvsmith and by llama.cpp, each with its own tokenizer: token ids.

Usage: .venv-test/bin/python bench/greedy_vs_llama_cpp.py KVSMITH MODEL.gguf PROMPTS [--max-new-tokens 40]

PROMPTS: one prompt a line. Needs `pip install llama-cpp-python` (checked: 0.3.36), which compiles llama.cpp and which no
test here depends on. llama.cpp rounds activations to 8 bits where weights are quantised, so that answers may part where
two tokens are nearly as likely; of f32 files they are to be equal.
"""

import argparse
import itertools
import json
import subprocess
from pathlib import Path

from llama_cpp import Llama


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kvsmith")
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    return parser.parse_args()


def by_kvsmith(options):
    words = [options.kvsmith, "generate", options.model, "--prompts", options.prompts, "--temperature", 0,
             "--max-new-tokens", options.max_new_tokens, "--json"]
    shown = subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout
    return [json.loads(line)["tokens"] for line in shown.splitlines()]


def by_llama_cpp(options):
    model = Llama(str(options.model), n_ctx=1024, verbose=False)
    for prompt in options.prompts.read_text().splitlines():
        ids = model.tokenize(prompt.encode())
        model.reset()
        new = itertools.islice(model.generate(ids, temp=0, top_k=1, repeat_penalty=1), options.max_new_tokens)
        yield list(itertools.takewhile(lambda token: token != model.token_eos(), new))


def main():
    options = arguments()
    pairs = list(zip(by_kvsmith(options), by_llama_cpp(options), strict=True))
    same = sum(ours == theirs for ours, theirs in pairs)
    print(f"{options.model.name}: {same} of {len(pairs)} texts go on with the same token ids, {sum(len(a) for a, _ in pairs)} tokens")


if __name__ == "__main__":
    main()
