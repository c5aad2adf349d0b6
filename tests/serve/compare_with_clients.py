"""Clients that know nothing of these architectures must get from `serve` what `evaluate` and `generate` say.

Usage: compare_with_clients.py KVSMITH
The OpenAI package asks for completions, chats, streams and errors; lm-eval scores a local task through
`local-completions`. Prints the largest difference; exit code 77 (skipped) when a package is not installed.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
try:
    import lm_eval
    import numpy
    import openai
    import sentencepiece
    from lm_eval.tasks import TaskManager
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

ARCHITECTURES = Path(__file__).resolve().parents[2] / "configs" / "architectures"
LARGEST_NLL_DIFFERENCE = 1e-4
KEY = "a key"
TASK = """task: local_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{documents}"}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


def kvsmith(binary, *arguments):
    subprocess.run([binary, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def document(number):
    """Documents differ, and none is longer than the context."""
    return "".join(f"{i}: How now, good {'sir' if i % 3 else 'lady'}? Café {i * number}.\n" for i in range(number, number + 4))


def texts(binary, folder):
    """A tokenizer, and a corpus whose documents lm-eval will score."""
    for split, numbers in {"train": range(200), "valid": range(300, 306)}.items():
        (folder / split).mkdir()
        for number in numbers:
            (folder / split / f"{number}.txt").write_text(document(number))
    kvsmith(binary, "tokenizer", "train", folder / "train", "--vocab-size", 320, "--output", folder / "t.model", "-q")
    kvsmith(binary, "data", "build", folder / "train", "--valid", folder / "valid", "--tokenizer", folder / "t.model",
            "--output", folder / "c.h5", "-q")
    (folder / "documents.jsonl").write_text(
        "".join(json.dumps({"text": document(number)}) + "\n" for number in range(300, 306)))
    (folder / "local_text.yaml").write_text(TASK.format(documents=folder / "documents.jsonl"))


def train(binary, folder, name, *settings):
    (folder / "run.toml").write_text(
        "[model]\nhidden_size = 64\nnum_hidden_layers = 6\nnum_attention_heads = 4\nnum_key_value_heads = 2\n"
        f"max_position_embeddings = 256\n[data]\ncorpus = \"{folder}/c.h5\"\n[train]\nmax_steps = 30\nbatch_size = 8\n"
        "sequence_length = 64\nwarmup_steps = 5\nlearning_rate = 5e-3\n")
    sets = [word for setting in settings for word in ("--set", setting)]
    kvsmith(binary, "train", folder / "run.toml", ARCHITECTURES / f"{name}.toml", "--output", folder / name, "-q", *sets)
    return folder / name


class Server:
    """While it lives, `serve` answers on a port of its own."""

    def __init__(self, binary, run):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [binary, "serve", str(run), "--port", str(self.port), "--cache-budget", "64MiB", "--threads", "1"],
            env={**os.environ, "KVSMITH_API_KEY": KEY}, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.base}/health").read()
                return self
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not begin to listen")

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(60) == 0, "a graceful end"


def scores_of_evaluate(binary, run, folder):
    """Log-likelihood of all documents but for their end-of-text, which lm-eval does not ask about."""
    kvsmith(binary, "evaluate", run, "--corpus", folder / "c.h5", "--json", folder / f"{run.name}.json", "-q")
    result = json.loads((folder / f"{run.name}.json").read_text())
    total, tokens = -result["nll"], result["tokens"]
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "t.model"))
    for number in range(300, 306):
        ids = [tokenizer.bos_id(), *tokenizer.encode(document(number))]
        (folder / "ids.json").write_text(json.dumps(ids))
        kvsmith(binary, "logits", run, "--tokens", folder / "ids.json", "--output", folder / "logits.npy", "--force")
        last = numpy.load(folder / "logits.npy")[-1].astype(numpy.float64)
        total -= last[tokenizer.eos_id()] - numpy.logaddexp.reduce(last)
        tokens -= 1
    return total, tokens


def compare_scores(binary, run, folder):
    """lm-eval's log-likelihoods of whole documents against those of `evaluate`."""
    expected, tokens = scores_of_evaluate(binary, run, folder)
    with Server(binary, run) as server:
        os.environ["OPENAI_API_KEY"] = KEY
        results = lm_eval.simple_evaluate(
            model="local-completions", tasks=["local_text"], log_samples=True,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            model_args={"model": run.name, "base_url": f"{server.base}/v1/completions", "tokenizer": str(folder / "tokenizer"),
                        "tokenizer_backend": "huggingface", "max_length": 255, "num_concurrent": 2})
    got = sum(sample["resps"][0][0] for sample in results["samples"]["local_text"])
    difference = abs(got - expected) / tokens
    print(f"{run.name}: {tokens} tokens, {got:.4f} by lm-eval, {expected:.4f} by evaluate")
    assert difference <= LARGEST_NLL_DIFFERENCE, difference
    return difference


def expect_status(status, call):
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        assert error.body["message"], error.body
        return
    raise AssertionError(f"no error {status}")


def ask_as_openai(binary, run):
    """Completions and chats, whole and streamed, and errors."""
    generated = subprocess.run([binary, "generate", str(run), "--prompt", "7: How now", "--max-new-tokens", "12", "--temperature",
                                "0", "--threads", "1"], check=True, capture_output=True, text=True).stdout
    with Server(binary, run) as server:
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key=KEY, max_retries=0)
        model = client.models.list().data[0].id
        question = {"model": model, "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(prompt="7: How now", **question).choices[0].text
        assert whole.strip() == generated.removeprefix("7: How now").strip(), (whole, generated)
        parts = client.completions.create(prompt="7: How now", stream=True, **question)
        assert "".join(part.choices[0].text for part in parts if part.choices) == whole
        messages = [{"role": "user", "content": "How now?"}]
        answer = client.chat.completions.create(messages=messages, **question).choices[0].message.content
        parts = client.chat.completions.create(messages=messages, stream=True, **question)
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == answer
        expect_status(400, lambda: client.completions.create(prompt="x", model=model, temperature=-1))
        expect_status(400, lambda: client.completions.create(prompt="x", model=model, max_tokens=10**6))
        expect_status(401, lambda: openai.OpenAI(base_url=f"{server.base}/v1", api_key="no", max_retries=0).models.list())


def main():
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts(binary, folder)
        lckv = train(binary, folder, "lckv")
        bounded = train(binary, folder, "bounded", "model.sliding_window=16", "model.num_slots=8")
        plain = train(binary, folder, "gqa")
        kvsmith(binary, "export", plain, "--format", "hf", "--output", folder / "tokenizer", "-q")
        differences = [compare_scores(binary, run, folder) for run in (lckv, bounded)]
        ask_as_openai(binary, lckv)
    print(f"largest difference {max(differences):.2e} nats a token")


if __name__ == "__main__":
    main()
