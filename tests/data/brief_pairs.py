#!/usr/bin/env python3
"""Prints 24 pairs of answers of which the one of a single word is preferred to a whole sentence.

    tests/data/brief_pairs.py > brief.jsonl
"""
import json

from ahoy_chats import questions

for question, sentence, word in questions():
    print(json.dumps({"prompt": [{"role": "user", "content": question}],
                      "chosen": [{"role": "assistant", "content": word}],
                      "rejected": [{"role": "assistant", "content": sentence}]}))
