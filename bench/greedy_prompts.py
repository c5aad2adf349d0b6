"""What the comparisons of greedy continuations share: their flags, and what kvsmith writes."""

import argparse
import json
import subprocess
from pathlib import Path


def arguments(description, max_new_tokens):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("kvsmith")
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--max-new-tokens", type=int, default=max_new_tokens)
    return parser.parse_args()


def by_kvsmith(options, *flags):
    """Token ids that follow each prompt."""
    words = [options.kvsmith, "generate", options.model, *flags, "--prompts", options.prompts, "--temperature", 0,
             "--max-new-tokens", options.max_new_tokens, "--json"]
    shown = subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout
    return [json.loads(line)["tokens"] for line in shown.splitlines()]
