"""Speed of byte-level BPE beside Hugging Face `tokenizers`, one thread each, in one run.

Usage: .venv-test/bin/python bench/tokenizer_vs_hf.py KVSMITH TOKENIZER_JSON TEXT [--rounds N]

Both encode the lines of TEXT, in turns, with the caches they have. Processor time, which other work on the machine
disturbs least; kvsmith's includes printing the ids and not the start, which is timed on an empty file. Ids must be
equal. Prints medians of MB/s and the ratio.
"""

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kvsmith", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    text = options.text.read_bytes().replace(b"\r", b"").replace(b"\0", b"")
    lines = [line for line in text.decode().split("\n") if line]
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    peer = Tokenizer.from_file(str(options.tokenizer))
    peer.encode_special_tokens = True
    seconds = {"kvsmith": [], "tokenizers": []}
    with tempfile.TemporaryDirectory() as folder:
        full, empty = Path(folder, "full"), Path(folder, "empty")
        full.write_text("".join(line + "\n" for line in lines))
        empty.write_text("")

        def run(path):
            begin = resource.getrusage(resource.RUSAGE_CHILDREN)
            out = subprocess.run([options.kvsmith, "tokenizer", "encode", options.tokenizer, path],
                                 check=True, stdout=subprocess.PIPE).stdout
            end = resource.getrusage(resource.RUSAGE_CHILDREN)
            return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime, out

        for _ in range(options.rounds):
            start, _ = run(empty)
            whole, out = run(full)
            seconds["kvsmith"].append(whole - start)
            begin = time.process_time()
            encoded = peer.encode_batch_fast(lines, add_special_tokens=False)
            seconds["tokenizers"].append(time.process_time() - begin)
    ids = [e.ids for e in encoded]
    assert ids == [[int(word) for word in line.split()] for line in out.splitlines()], "the ids differ"
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:10} {megabytes / median:7.2f} MB/s")
    print(f"kvsmith is {medians['tokenizers'] / medians['kvsmith']:.1f} times as fast; "
          f"{megabytes:.1f} MB, {sum(map(len, ids))} tokens, rounds {options.rounds}")


if __name__ == "__main__":
    main()
