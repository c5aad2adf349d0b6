#!/usr/bin/env python3
"""Prints 30 small chats, the same on every machine, as JSONL in OpenAI's style.

    tests/data/sample_chats.py > chats.jsonl
"""
import json

CAPITALS = [("France", "Paris"), ("Japan", "Tokyo"), ("Kenya", "Nairobi"), ("Peru", "Lima"), ("Norway", "Oslo"),
            ("Egypt", "Cairo"), ("Canada", "Ottawa"), ("India", "New Delhi"), ("Greece", "Athens"), ("Cuba", "Havana")]
COLOURS = [("the sky", "blue"), ("grass", "green"), ("snow", "white"), ("coal", "black"), ("a ripe tomato", "red"),
           ("a lemon", "yellow"), ("an orange", "orange"), ("a crow", "black"), ("milk", "white"), ("blood", "red")]


def message(role, content):
    return {"role": role, "content": content}


def chats():
    for country, city in CAPITALS:
        yield [message("system", "Answer in one short sentence."),
               message("user", f"What is the capital of {country}?"),
               message("assistant", f"The capital of {country} is {city}.")]
    for thing, colour in COLOURS:
        yield [message("user", f"What colour is {thing}?"),
               message("assistant", f"It is {colour}."),
               message("user", "Say it in capital letters."),
               message("assistant", f"IT IS {colour.upper()}.")]
    for i in range(10):
        numbers = [i + k for k in range(1, 4)]
        yield [message("user", f"Count from {numbers[0]} to {numbers[-1]}, a line each."),
               message("assistant", "\n".join(str(n) for n in numbers)),
               message("user", "And their sum?"),
               message("assistant", f"{' + '.join(str(n) for n in numbers)} = {sum(numbers)}"),
               message("user", "Thanks!"),
               message("assistant", "You're welcome.")]


for chat in chats():
    print(json.dumps({"messages": chat}, ensure_ascii=False))
