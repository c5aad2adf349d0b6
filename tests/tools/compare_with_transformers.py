"""Stock transformers must load an exported checkpoint and give the same logits and token ids.

Usage: compare_with_transformers.py KVSMITH [RUN CORPUS_TEXT]. Without a run a small one is trained.
Prints the largest differences; exit code 77 (skipped) when transformers is not installed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import numpy
    import torch
    from peft import PeftModel
    from transformers import (AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, DeepseekV3ForCausalLM, Gemma3ForCausalLM,
                              Gemma4ForCausalLM, LlamaForCausalLM, YoutuForCausalLM)

    from lckv_reference import lckv_logits
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

LARGEST_LOGIT_DIFFERENCE = 1e-4
LARGEST_NLL_DIFFERENCE = 1e-4
ARCHITECTURES = Path(__file__).resolve().parents[2] / "configs" / "architectures"
LATENT = {"kv_lora_rank": 24, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 20}
LOCAL_GLOBAL = {"num_key_value_heads": 2, "sliding_window": 9, "rms_norm_eps": 1e-3, "rope_parameters": {
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}, "full_attention": {"rope_type": "default", "rope_theta": 5e4}}}
TEXTS = [
    "To be, or not to be: that is the question.",
    "  two leading spaces,\ttab\nnew line\n\n  1234567 3.14",
    "naïve café — “quotes” … 漢字 🙂👩‍👩‍👧 e\u0301 \u2581 \u00a0end ",
    "<s> is no control token here, nor is </s>",
]


def kvsmith(binary, *arguments):
    subprocess.run([binary, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def train(binary, folder, name, *settings):
    """A small checkpoint; the text, tokenizer and corpus are shared by all of a folder."""
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("".join(f"{i}: How now, good {'sir' if i % 3 else 'lady'}? Café {i * i}.\n" for i in range(3000)))
        kvsmith(binary, "tokenizer", "train", text, "--vocab-size", 320, "--output", folder / "t.model", "-q")
        kvsmith(binary, "data", "build", text, "--tokenizer", folder / "t.model", "--output", folder / "c.h5", "-q")
        (folder / "run.toml").write_text(
            "[model]\nhidden_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4\nnum_key_value_heads = 2\n"
            f"[data]\ncorpus = \"{folder}/c.h5\"\n[train]\nmax_steps = 30\nbatch_size = 8\nsequence_length = 64\n"
            "warmup_steps = 5\nlearning_rate = 5e-3\n")
    sets = [word for setting in settings for word in ("--set", setting)]
    kvsmith(binary, "train", folder / "run.toml", "--output", folder / name, "-q", *sets)
    return folder / name


def convert(binary, run, name, recipe, *settings):
    sets = [word for setting in settings for word in ("--set", setting)]
    kvsmith(binary, "convert", run, "--to", ARCHITECTURES / recipe, *sets, "--calibration", run.parent / "text.txt",
            "--output", run.parent / name, "-q")
    return run.parent / name


def their_logits(model, ids):
    """Of all tokens at once, and of one after the other."""
    with torch.no_grad():
        whole = model(torch.tensor([ids])).logits[0].numpy()
        rows, cache = [], None
        for token in ids:
            step = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            rows.append(step.logits[0, -1].numpy())
    return whole, numpy.stack(rows)


def compare(binary, run, folder, text=None):
    exported = folder / f"{run.name}-hf"
    kvsmith(binary, "export", run, "--output", exported, "-q")
    has_images = "vision_config" in json.loads((exported / "config.json").read_text())
    family = AutoModelForImageTextToText if has_images else AutoModelForCausalLM
    model, loading = family.from_pretrained(exported, dtype=torch.float32, output_loading_info=True)
    assert not any(loading[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    tokenizer = AutoTokenizer.from_pretrained(exported)

    for sample in TEXTS:
        ids = tokenizer(sample)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == sample, (sample, ids)
    ids = tokenizer(text or "\n".join(TEXTS))["input_ids"][:512]
    (folder / "ids.json").write_text(json.dumps(ids))
    worst = 0.0
    for protocol, theirs in zip(("parallel", "decode"), their_logits(model, ids)):
        kvsmith(binary, "logits", run, "--tokens", folder / "ids.json", "--protocol", protocol,
                "--output", folder / "logits.npy", "--force")
        worst = max(worst, float(numpy.abs(numpy.load(folder / "logits.npy") - theirs).max()))
    print(f"{run.name}: {type(model).__name__}, {len(ids)} tokens, largest logit difference {worst:.2e}")
    assert worst <= LARGEST_LOGIT_DIFFERENCE
    return model, tokenizer


def compare_peft(binary, run, folder):
    """An adapter, exported alone, on its exported base."""
    adapted = train(binary, folder, "adapted", f"train.init_from='{run}'", "lora.rank=3", "lora.alpha=5",
                    "lora.targets=['*.q_proj','*.down_proj']")
    kvsmith(binary, "export", adapted, "--format", "peft", "--output", folder / "adapter", "-q")
    base = AutoModelForCausalLM.from_pretrained(folder / f"{run.name}-hf", dtype=torch.float32)
    ids = [(i * 7919 + 1) % 320 for i in range(60)]
    (folder / "ids.json").write_text(json.dumps(ids))
    with torch.no_grad():
        before = base(torch.tensor([ids])).logits[0].numpy()
        theirs = PeftModel.from_pretrained(base, folder / "adapter")(torch.tensor([ids])).logits[0].numpy()
    kvsmith(binary, "logits", adapted, "--tokens", folder / "ids.json", "--output", folder / "logits.npy", "--force")
    worst = float(numpy.abs(numpy.load(folder / "logits.npy") - theirs).max())
    print(f"{adapted.name}: PEFT, moved by {abs(theirs - before).max():.1f}, largest logit difference {worst:.2e}")
    assert worst <= LARGEST_LOGIT_DIFFERENCE < abs(theirs - before).max()


def compare_import(binary, folder, name, architecture, extra):
    """A random model that transformers saved; rope_interleave is what its class has by default."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 4, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
    model = architecture(architecture.config_class(**sizes | extra)).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if parameter.endswith("norm.weight"):  # of which a trained model has no two alike
                value.add_(0.3 * torch.rand_like(value))
            if parameter.endswith("post_per_layer_input_norm.weight"):
                value.zero_()
    model.save_pretrained(folder / name)
    ids = [(i * 7919 + 1) % 320 for i in range(60)]
    (folder / "ids.json").write_text(json.dumps(ids))
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    worst = 0.0
    for protocol in ("parallel", "decode"):
        kvsmith(binary, "logits", folder / name, "--tokens", folder / "ids.json", "--protocol", protocol,
                "--output", folder / "logits.npy", "--force")
        worst = max(worst, float(numpy.abs(numpy.load(folder / "logits.npy") - theirs).max()))
    print(f"{name}: {architecture.__name__}, logits to {abs(theirs).max():.1f}, largest logit difference {worst:.2e}")
    assert worst <= LARGEST_LOGIT_DIFFERENCE


def compare_lckv(binary, run, folder):
    """The export in the LCKV authors' layout, by a second implementation: their code needs transformers 4.45."""
    exported = folder / f"{run.name}-export"
    kvsmith(binary, "export", run, "--format", "lckv", "--output", exported, "-q")
    ids = AutoTokenizer.from_pretrained(run.parent / "llama-hf")("\n".join(TEXTS))["input_ids"][:60]
    (folder / "ids.json").write_text(json.dumps(ids))
    theirs = lckv_logits(exported, ids).numpy()
    worst = 0.0
    for model in (run, exported):
        kvsmith(binary, "logits", model, "--tokens", folder / "ids.json", "--protocol", "decode", "--output", folder / "logits.npy", "--force")
        worst = max(worst, float(numpy.abs(numpy.load(folder / "logits.npy") - theirs).max()))
    print(f"{run.name}: {len(ids)} tokens, logits to {abs(theirs).max():.1f}, largest logit difference {worst:.2e}")
    assert worst <= LARGEST_LOGIT_DIFFERENCE


def compare_ids(binary, run, tokenizer, folder, text):
    """Our ids of a text, read back from a corpus, are those of AutoTokenizer, end-of-text aside."""
    path = folder / "sample.txt"
    path.write_text(text, newline="")
    corpus = folder / "sample.h5"
    kvsmith(binary, "data", "build", path, "--tokenizer", run / "latest" / "tokenizer.model", "--output", corpus, "-q", "--force")
    shown = json.loads(subprocess.run([binary, "data", "inspect", str(corpus), "--json"], check=True, capture_output=True).stdout)
    ids = tokenizer(text)["input_ids"]
    assert shown["splits"]["train"]["tokens"] == len(ids) + 1, (shown["splits"], len(ids))


def compare_nll(binary, run, model, tokenizer, folder, text):
    """Mean loss over whole windows of a text, by transformers and by `kvsmith evaluate`."""
    context, batch = 256, 16
    path = folder / "heldout.txt"
    path.write_text(text, newline="")
    kvsmith(binary, "data", "build", path, "--valid", path, "--tokenizer", run / "latest" / "tokenizer.model",
            "--output", folder / "heldout.h5", "-q")
    kvsmith(binary, "evaluate", run, "--corpus", folder / "heldout.h5", "--context", context, "--protocol", "parallel",
            "--json", folder / "heldout.json", "-q")
    ours = json.loads((folder / "heldout.json").read_text())
    ids = torch.tensor(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id])
    windows = [ids[i : i + context + 1] for i in range(0, len(ids) - 1, context)]
    total, count = 0.0, 0
    with torch.no_grad():
        for group in [windows[i : i + batch] for i in range(0, len(windows), batch)]:
            for window in [group] if len({len(w) for w in group}) == 1 else [[w] for w in group]:
                stacked = torch.stack(list(window))
                logits = model(stacked[:, :-1]).logits.double()
                total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), stacked[:, 1:].flatten(), reduction="sum").item()
                count += stacked[:, 1:].numel()
    assert count == ours["tokens"], (count, ours["tokens"])
    print(f"{run.name}: nll per token {ours['nll_per_token']:.8f}, transformers {total / count:.8f}, over {count} tokens")
    assert abs(total / count - ours["nll_per_token"]) <= LARGEST_NLL_DIFFERENCE


def main():
    binary = sys.argv[1]
    torch.set_num_threads(os.cpu_count())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(sys.argv) > 2:
            run, text = Path(sys.argv[2]), Path(sys.argv[3]).read_bytes().decode()
            model, tokenizer = compare(binary, run, folder, text)
            compare_nll(binary, run, model, tokenizer, folder, text)
            return
        run = train(binary, folder, "llama")
        model, tokenizer = compare(binary, run, folder)
        for sample in TEXTS:
            compare_ids(binary, run, tokenizer, folder, sample)
        compare_peft(binary, run, folder)
        compare_nll(binary, run, model, tokenizer, folder, (folder / "text.txt").read_text()[:60000])
        compare(binary, train(binary, folder, "llama-untied-mqa", "model.tie_word_embeddings=false", "model.num_key_value_heads=1",
                      "model.rope_theta=50000", "model.rms_norm_eps=1e-3"), folder)
        compare(binary, train(binary, folder, "llama-bias", "model.attention_bias=true"), folder)
        compare(binary, train(binary, folder, "qwen3", "model.qk_norm=true", "model.head_dim=24", "model.attention_bias=true"), folder)
        window = "model.sliding_window=9"
        compare(binary, train(binary, folder, "mistral", window, "model.layer_types=['sliding']"), folder)
        compare(binary, train(binary, folder, "mistral-odd-width", "model.num_attention_heads=6", "model.num_key_value_heads=3",
                              "model.head_dim=12"), folder)
        compare(binary, train(binary, folder, "qwen3-local-global", window, "model.layer_types=['sliding','full']",
                              "model.qk_norm=true"), folder)
        compare(binary, train(binary, folder, "granite-local-global", window, "model.layer_types=['sliding','full']",
                              "model.rope_local_theta=500"), folder)
        compare(binary, train(binary, folder, "granite-nope-sinks", window, "model.layer_types=['sliding','full']",
                              "model.layer_rope_theta=[10000.0,0.0]", "model.attention_sink_logits=true"), folder)
        latent = ["model.layer_types=['latent']", "model.kv_lora_rank=24", "model.qk_rope_head_dim=8", "model.qk_nope_head_dim=12",
                  "model.v_head_dim=20", "model.rms_norm_eps=1e-3"]
        compare(binary, train(binary, folder, "youtu", *latent), folder)
        compare(binary, train(binary, folder, "youtu-q-lora", *latent, "model.q_lora_rank=40", "model.rope_theta=50000",
                              "model.tie_word_embeddings=false"), folder)
        compare(binary, train(binary, folder, "youtu-no-norm", *latent, "model.latent_norm=false"), folder)
        compare(binary, convert(binary, run, "youtu-converted", "mla.toml"), folder)
        four = ["model.num_hidden_layers=4", *latent]
        compare(binary, train(binary, folder, "mistral-large4-pairs", *four, "model.pattern='cla-2'"), folder)
        compare(binary, train(binary, folder, "mistral-large4-trailing", *four, "model.pattern='trailing-reuse-2'", "model.rms_norm_eps=1e-6",
                              "model.rope_theta=50000", "model.tie_word_embeddings=false"), folder)
        compare(binary, train(binary, folder, "mistral-large4-no-norm", *four, "model.pattern='cla-2'", "model.latent_norm=false"), folder)
        compare(binary, convert(binary, run, "mistral-large4-converted", "mla-cla.toml"), folder)
        gemma = ["model.scale_embeddings=true", "model.hidden_act='gelu_pytorch_tanh'", "model.sandwich_norm=true", "model.qk_norm=true",
                 "model.v_norm=true", "model.query_pre_attn_scalar=1"]
        deep = ["model.num_hidden_layers=6", window, "train.max_steps=8"]  # rounding grows with depth and with sharp attention
        local_global = [*deep, "model.layer_types=['sliding','sliding','full']", "model.rope_local_theta=500"]
        k_eq_v = ["model.attention_k_eq_v=true", "model.layer_num_key_value_heads=[2,2,1]"]
        compare(binary, train(binary, folder, "gemma4", *gemma, "model.attention_bias=true", "model.tie_word_embeddings=false",
                              "model.hidden_act='silu'"), folder)
        compare(binary, train(binary, folder, "gemma4-k-eq-v", *gemma, "model.attention_k_eq_v=true"), folder)
        compare(binary, train(binary, folder, "gemma4-local-global", *gemma, *local_global, *k_eq_v), folder)
        compare(binary, train(binary, folder, "gemma4-shared", *gemma, *local_global, *k_eq_v, "model.pattern='trailing-reuse-3'"), folder)
        compare(binary, train(binary, folder, "gemma4-yoco", *gemma, *deep, "model.pattern='yoco'"), folder)
        gemma3 = [*gemma[:4], "model.query_pre_attn_scalar=12"]
        compare(binary, train(binary, folder, "gemma3", *gemma3), folder)
        compare(binary, train(binary, folder, "gemma3-local-global", *gemma3, *local_global, "model.attention_bias=true"), folder)
        types = ["sliding_attention", "full_attention"] * 2
        gemma4 = LOCAL_GLOBAL | {"num_hidden_layers": 4, "initializer_range": 0.1, "layer_types": types, "head_dim": 16, "global_head_dim": 16,
                                 "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 0}
        for name, architecture, extra in (("import-gemma3", Gemma3ForCausalLM, LOCAL_GLOBAL | {
                                              "layer_types": types[:2], "head_dim": 24, "query_pre_attn_scalar": 30}),
                                          ("import-gemma4", Gemma4ForCausalLM, gemma4),
                                          ("import-gemma4-shared", Gemma4ForCausalLM, gemma4 | {
                                              "num_kv_shared_layers": 2, "attention_k_eq_v": True, "num_global_key_value_heads": 1,
                                              "hidden_size_per_layer_input": 4}),
                                          ("import-llama", LlamaForCausalLM, {}),
                                          ("import-llama-gelu", LlamaForCausalLM, {"hidden_act": "gelu_pytorch_tanh"}),
                                          ("import-youtu", YoutuForCausalLM, LATENT),
                                          ("import-youtu-q-lora", YoutuForCausalLM, LATENT | {"q_lora_rank": 40}),
                                          ("import-deepseek", DeepseekV3ForCausalLM, LATENT | {"first_k_dense_replace": 2})):
            compare_import(binary, folder, name, architecture, extra)
        six = ["model.num_hidden_layers=6", window, "train.max_steps=8"]
        for layers in ("0_1_2_3_4_5", "0_0_2_2_4_4", "0s_1s_2s_3_3_3", "0_4_4_4_4_5", "0_4s_4_4_4_5", "0_4s_4s_4s_4s_5", "0_0_1_5s_5_5"):
            compare_lckv(binary, train(binary, folder, "lckv-" + layers, *six, f"model.layer_types=['{layers}']",
                                       "model.tie_word_embeddings=" + ("true" if layers == "0_4_4_4_4_5" else "false")), folder)
        for recipe in ("cla", "yoco", "lckv"):
            compare_lckv(binary, convert(binary, folder / "lckv-0_1_2_3_4_5", recipe + "-converted", recipe + ".toml", window), folder)


main()
