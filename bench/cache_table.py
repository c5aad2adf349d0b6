"""Markdown tables of a sweep over cache methods, from the CSV that `kvsmith report` writes.

Usage: cache_table.py REPORT.csv [--checkpoint NAME] [--matching REGEX] [--seeds]

A line for each method, codec and context, ordered by bytes: measured bytes beside those of the full cache, perplexity
with its interval, divergence from the full cache, and accuracy of probes where there are some. With --seeds a line
is for all seeds of a method: means, and standard deviations between seeds.
"""

import argparse
import csv
import re
import statistics
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--checkpoint", help="only points of this checkpoint")
    parser.add_argument("--matching", default="", help="only methods whose name has this expression")
    parser.add_argument("--seeds", action="store_true", help="sum up points that differ in nothing but the seed")
    return parser.parse_args()


def share(text):
    return f"{100 * float(text):.1f} %" if text else "-"


def number(text, digits):
    return f"{float(text):.{digits}f}" if text else "-"


def show(lines):
    lines.insert(1, ["---"] * len(lines[0]))
    print("".join("| " + " | ".join(cells) + " |\n" for cells in lines), end="")


def over_seeds(points):
    groups = {}
    for point in points:
        method = point["method"].removesuffix(f", seed {point['seed']}")
        groups.setdefault((point["checkpoint"], method, point["context"]), []).append(point)
    lines = [["method", "seeds", "bytes", "perplexity", "+-", "KL", "+-", "same top", "+-"]]
    for (_, method, _), group in groups.items():
        def spread(key, scale, digits, unit=""):
            values = [scale * float(point[key]) for point in group]
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            return [f"{statistics.mean(values):.{digits}f}{unit}", f"{deviation:.{digits}f}"]
        lines.append([method, str(len(group)), f"{float(group[0]['resident_mean_bytes']):,.0f}", *spread("perplexity", 1, 2),
                      *spread("kl_to_full", 1, 4), *spread("top1_agreement", 100, 1, " %")])
    return lines


def main():
    options = arguments()
    with options.csv.open() as file:
        points = [row for row in csv.DictReader(file) if re.search(options.matching, row["method"])]
    if options.checkpoint:
        points = [point for point in points if point["checkpoint"] == options.checkpoint]
    points.sort(key=lambda point: -float(point["resident_mean_bytes"]))
    if options.seeds:
        return show(over_seeds(points))
    probes = [key for key in points[0] if key.startswith("probe.") and any(point[key] for point in points)]
    has_contexts = len({point["context"] for point in points}) > 1
    if has_contexts:
        points.sort(key=lambda point: float(point["context"]))
    lines = [[*["context"][:has_contexts], "method", "bytes", "of full", "perplexity", "95 %", "KL", "same top", *[key[6:] for key in probes]]]
    for point in points:
        front = "**" if point["pareto"] in ("1", "true", "yes") else ""
        lines.append([*[f"{float(point['context']):,.0f}"][:has_contexts], f"{front}{point['method']}{front}",
                      f"{float(point['resident_mean_bytes']):,.0f}", share(point["share_of_full"]), number(point["perplexity"], 2),
                      f"{number(point['perplexity_low'], 2)} to {number(point['perplexity_high'], 2)}",
                      number(point["kl_to_full"], 4), share(point["top1_agreement"]), *[number(point[key], 2) for key in probes]])
    show(lines)


if __name__ == "__main__":
    main()
