"""Markdown tables of a sweep over cache methods, from the CSV that `kvsmith report` writes.

Usage: cache_table.py REPORT.csv [--checkpoint NAME] [--matching REGEX]

A line for each method and codec, ordered by bytes: measured bytes beside those of the full cache, perplexity with
its interval, divergence from the full cache, and accuracy of probes where there are some.
"""

import argparse
import csv
import re
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--checkpoint", help="only points of this checkpoint")
    parser.add_argument("--matching", default="", help="only methods whose name has this expression")
    return parser.parse_args()


def share(text):
    return f"{100 * float(text):.1f} %" if text else "-"


def number(text, digits):
    return f"{float(text):.{digits}f}" if text else "-"


def main():
    options = arguments()
    with options.csv.open() as file:
        points = [row for row in csv.DictReader(file) if re.search(options.matching, row["method"])]
    if options.checkpoint:
        points = [point for point in points if point["checkpoint"] == options.checkpoint]
    points.sort(key=lambda point: -float(point["resident_mean_bytes"]))
    probes = [key for key in points[0] if key.startswith("probe.") and any(point[key] for point in points)]
    head = ["method", "bytes", "of full", "perplexity", "95 %", "KL", "same top", *[key[6:] for key in probes]]
    lines = [head, ["---"] * len(head)]
    for point in points:
        front = "**" if point["pareto"] in ("1", "true", "yes") else ""
        lines.append([f"{front}{point['method']}{front}", f"{float(point['resident_mean_bytes']):,.0f}", share(point["share_of_full"]),
                      number(point["perplexity"], 2), f"{number(point['perplexity_low'], 2)} to {number(point['perplexity_high'], 2)}",
                      number(point["kl_to_full"], 4), share(point["top1_agreement"]), *[number(point[key], 2) for key in probes]])
    print("".join("| " + " | ".join(cells) + " |\n" for cells in lines), end="")


if __name__ == "__main__":
    main()
