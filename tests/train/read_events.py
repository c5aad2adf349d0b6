"""Prints what TensorBoard itself reads from a directory of event files.

Usage: read_events.py DIRECTORY
Output: one JSON object {"tag": ..., "step": ..., "value": ...} per line, by tag and step.
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main(directory):
    events = EventAccumulator(directory, size_guidance={"scalars": 0})
    events.Reload()
    for tag in sorted(events.Tags()["scalars"]):
        for scalar in events.Scalars(tag):
            print(json.dumps({"tag": tag, "step": scalar.step, "value": scalar.value}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
