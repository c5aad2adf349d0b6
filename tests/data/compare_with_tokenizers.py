"""Byte-level BPE must give the token ids of Hugging Face `tokenizers` and transformers.

Usage: compare_with_tokenizers.py KVSMITH [FOLDER_OR_TOKENIZER_JSON...]. Without tokenizers, one is trained for
each of the supported pre-tokenizers. Texts are those of ../shared/corpora, where there are any, and 100,000
generated ones: every plane, marks, joiners, white space and digits of all kinds, contractions, added tokens.
Prints what differs and exits with 1; exit code 77 (skipped) when tokenizers is not installed.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

CORPORA = Path(__file__).resolve().parents[2] / "../shared/corpora"
GENERATED = 100_000
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ALPHABETS = [
    range(0x20, 0x7F), range(0x01, 0x20), [0x20] * 4 + [0x0A, 0x0D, 0x09, 0x85, 0xA0, 0x1680, 0x2028, 0x200B, 0x3000, 0xFEFF],
    range(0xA0, 0x250), range(0x300, 0x370), range(0x400, 0x500), range(0x590, 0x700), range(0x900, 0xE00),
    [*range(0x660, 0x66A), *range(0x966, 0x970), *range(0xFF10, 0xFF1A), *range(0x2160, 0x2180), 0xB2, 0xBD, 0x3007,
     *range(0x1D7CE, 0x1D800), *range(0x11DE0, 0x11DEA), *range(0x10D40, 0x10D4A)],
    range(0x1100, 0x1200), range(0x3040, 0x3100), range(0x4E00, 0x4F00), range(0xAC00, 0xAD00),
    [*range(0x1F600, 0x1F650), 0x200D, 0xFE0F, 0x1F3FB], range(0x1, 0xD800), range(0xE000, 0x110000),
]
WORDS = [
    "'s", "'S", "'T", "\u2019s", "'re", "'LL", "'ll", "'Ve", "'d", "'\u017f", "'\u017ft", "don't", "I'M", "1234567", "3.14", "  ",
    "   ", "\r\n", "\n\n", "\n \n", " \n", "\t\t", "\n\t x", "x" * 40, "the", " the", "...", "!!\n\n", "\u00e9", "e\u0301", "\u0344", "\u212b",
    "\u1100\u1161\u11a8", "\U0001f469\u200d\U0001f469\u200d\U0001f467", " " * 200, "\n" * 30, "a" * 300, "\u65e5\u672c" * 30, "''s", "_a",
    "<tool_call>", "the \u00e9", "the e\u0301", *CONTROLS,
]


def generated():
    choose = random.Random(1)
    for number in range(GENERATED):
        alphabets = choose.sample(ALPHABETS, choose.randint(1, 4))
        share = number % 4 / 3  # of words; the rest is single characters
        yield "".join(
            choose.choice(WORDS) if choose.random() < share else chr(choose.choice(choose.choice(alphabets)))
            for _ in range(choose.randrange(1, 24)))


def corpora():
    for path in sorted(CORPORA.glob("**/*.txt")):
        yield from path.read_bytes().decode().replace("\0", "").splitlines(keepends=True)[:50_000]


def split(regex):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(folder, texts):
    """A tokenizer for each pre-tokenizer, with everything around it that the family has."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for name, step in {
        "gpt2": byte_level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
        "llama3": split(LLAMA3),
        "qwen2": split(QWEN2),
    }.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
        tokenizer.pre_tokenizer = step
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        if name == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
        # SmolLM2 has no tokens for some bytes
        alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if name != "smollm" or c not in "\u0104\u0106\u00f1"]
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=3000, initial_alphabet=alphabet, limit_alphabet=len(alphabet), special_tokens=CONTROLS,
            show_progress=False))
        tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("the \u00e9", normalized=True)])
        if name == "llama3":
            tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, processors.TemplateProcessing(
                single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 1)])])
        (folder / name).mkdir()
        tokenizer.save(str(folder / name / "tokenizer.json"))
        (folder / name / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
        yield folder / name / "tokenizer.json"


def ours(binary, path, texts, folder, *flags):
    (folder / "texts").write_bytes(b"".join(text.encode() + b"\0" for text in texts))
    out = subprocess.run([binary, "tokenizer", "encode", path, folder / "texts", "--null", *flags], check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    return [[int(word) for word in line.split()] for line in out.splitlines()]


def differences(name, texts, expected, got):
    assert len(expected) == len(got), (len(expected), len(got))
    wrong = [i for i, (a, b) in enumerate(zip(expected, got)) if a != b]
    for i in wrong[:5]:
        print(f"{name}: {texts[i]!a}\n  expected {expected[i]}\n  got      {got[i]}")
    print(f"{name}: {len(wrong)} of {len(texts)} texts differ")
    return len(wrong)


def compare(binary, path, texts, folder):
    tokenizer = Tokenizer.from_file(str(path))
    wrong = 0
    for flags in [], ["--specials"]:
        tokenizer.encode_special_tokens = not flags
        expected = []
        for at in range(0, len(texts), 10_000):  # the encodings of all would take gigabytes
            expected += [e.ids for e in tokenizer.encode_batch(texts[at:at + 10_000], add_special_tokens=False)]
        wrong += differences(" ".join([path.parent.name, *flags]), texts, expected,
                             ours(binary, path, texts, folder, *flags))
    return wrong


def compare_auto_tokenizer(binary, path, texts, folder):
    """AutoTokenizer on the folder, with all of the defaults that transformers has."""
    auto = AutoTokenizer.from_pretrained(path.parent)
    expected = [auto(text, add_special_tokens=False)["input_ids"] for text in texts]
    return differences(f"{path.parent.name} AutoTokenizer", texts, expected, ours(binary, path, texts, folder, "--specials"))


def main():
    binary, given = sys.argv[1], [Path(name) for name in sys.argv[2:]]
    texts = [*generated(), *corpora()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [path / "tokenizer.json" if path.is_dir() else path for path in given]
        paths = paths or [*trained(folder, texts[:20_000] + texts[GENERATED:GENERATED + 20_000])]
        wrong = 0
        for path in paths:
            wrong += compare(binary, path, texts, folder)
            wrong += compare_auto_tokenizer(binary, path, texts[:GENERATED:50], folder)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
