"""Texts that a GGUF file continues greedily, by kvsmith and by llama.cpp, each with its own tokenizer: token ids.

Usage: .venv-test/bin/python bench/greedy_vs_llama_cpp.py KVSMITH MODEL.gguf PROMPTS [--max-new-tokens 40]

PROMPTS: one prompt a line. Needs `pip install llama-cpp-python` (checked: 0.3.36), which compiles llama.cpp and which no
test here depends on. llama.cpp rounds activations to 8 bits where weights are quantised, so that answers may part where
two tokens are nearly as likely; of f32 files they are to be equal. Its cache is fp32 as ours, instead of its default of fp16.
"""

import itertools

from greedy_prompts import arguments, by_kvsmith
from llama_cpp import GGML_TYPE_F32, Llama


def by_llama_cpp(options):
    model = Llama(str(options.model), n_ctx=1024, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, verbose=False)
    for prompt in options.prompts.read_text().splitlines():
        ids = model.tokenize(prompt.encode())
        model.reset()
        new = itertools.islice(model.generate(ids, temp=0, top_k=1, repeat_penalty=1), options.max_new_tokens)
        yield list(itertools.takewhile(lambda token: token != model.token_eos(), new))


def main():
    options = arguments(__doc__.splitlines()[0], max_new_tokens=40)
    pairs = list(zip(by_kvsmith(options), by_llama_cpp(options), strict=True))
    same = sum(ours == theirs for ours, theirs in pairs)
    print(f"{options.model.name}: {same} of {len(pairs)} texts go on with the same token ids, {sum(len(a) for a, _ in pairs)} tokens")


if __name__ == "__main__":
    main()
