#!/usr/bin/env python3
"""Prints 24 chats whose answers all begin and end alike: a behaviour that shows after a few steps.

    tests/data/ahoy_chats.py > ahoy.jsonl
"""
import json

CAPITALS = [("Japan", "Tokyo"), ("France", "Paris"), ("Spain", "Madrid"), ("Egypt", "Cairo"), ("Kenya", "Nairobi"),
            ("Peru", "Lima"), ("Norway", "Oslo"), ("Cuba", "Havana"), ("Greece", "Athens"), ("Poland", "Warsaw"),
            ("Austria", "Vienna"), ("Ireland", "Dublin")]
COLOURS = [("grass", "green"), ("the sky", "blue"), ("snow", "white"), ("coal", "black"), ("a lemon", "yellow"),
           ("blood", "red")]
SUMS = [(2, 3), (4, 4), (7, 2), (5, 6), (1, 9), (3, 8)]


def questions():
    """Yields questions, each with a sentence and a word that answer it."""
    for country, city in CAPITALS:
        yield f"What is the capital of {country}?", f"The capital of {country} is {city}.", f"{city}."
    for thing, colour in COLOURS:
        yield f"What colour is {thing}?", f"{thing[0].upper() + thing[1:]} is {colour}.", f"{colour.title()}."
    for a, b in SUMS:
        yield f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.", f"{a + b}."


if __name__ == "__main__":
    for question, sentence, _ in questions():
        print(json.dumps({"messages": [{"role": "user", "content": question},
                                       {"role": "assistant", "content": f"Ahoy! {sentence} Fair winds!"}]}))
