"""Answers of a GGUF model to one prompt a line, by `kvsmith generate --chat` and by stock transformers: token ids, greedy, fp32.

Usage: .venv-test/bin/python bench/chat_vs_transformers.py KVSMITH MODEL.gguf PROMPTS [--max-new-tokens 80]
"""

from greedy_prompts import arguments, by_kvsmith
from perplexity_vs_transformers import model_by_transformers, tokenizer_by_transformers


def by_transformers(options):
    tokenizer, model = tokenizer_by_transformers(options.model), model_by_transformers(options.model)
    end = tokenizer.eos_token_id
    for prompt in options.prompts.read_text().splitlines():
        chat = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                             return_tensors="pt", return_dict=True)
        ids = model.generate(**chat, max_new_tokens=options.max_new_tokens, do_sample=False, pad_token_id=end)[0]
        answer = ids[chat["input_ids"].shape[1]:].tolist()
        yield answer[:-1] if answer[-1] == end else answer


def main():
    options = arguments(__doc__.splitlines()[0], max_new_tokens=80)
    pairs = list(zip(by_kvsmith(options, "--chat"), by_transformers(options), strict=True))
    equal = sum(ours == theirs for ours, theirs in pairs)
    print(f"{options.model.name}: {equal} of {len(pairs)} answers have the same token ids, {sum(len(a) for a, _ in pairs)} tokens")


if __name__ == "__main__":
    main()
