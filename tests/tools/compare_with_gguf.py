"""The Python package gguf must read our GGUF files as we do, and its files must be read as it does.

Usage: compare_with_gguf.py KVSMITH [GGUF]. With a file, its tensors are compared as well. Prints what
was compared; exit code 77 (skipped) when a package is not installed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import gguf
    import numpy
    import torch
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
    from safetensors.numpy import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

LARGEST_LOGIT_DIFFERENCE = 1e-4
# Bytes of a block that hold the upper half of a scale: cleared bits keep the values finite and small.
SCALES = {"F16": [1], "BF16": [1], "Q4_0": [1], "Q4_1": [1, 3], "Q5_0": [1], "Q5_1": [1, 3], "Q8_0": [1],
          "Q4_K": [1, 3], "Q5_K": [1, 3], "Q6_K": [209]}
LAYER = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm"}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def kvsmith(binary, *arguments):
    subprocess.run([binary, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def our_name(name):
    if name in OUTER:
        return OUTER[name]
    _, layer, tensor, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER[tensor]}.{kind}"


def to_pairs(name, values, heads):
    """The row order of ggml's llama: halves of a head become neighbouring pairs."""
    _, layer, tensor, *_ = [*name.split("."), "", ""]
    if tensor not in heads:
        return values
    count = heads[tensor][int(layer)]
    return values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def heads_of(reader):
    """Heads whose rows are in pairs, of each layer."""
    architecture = reader.get_field("general.architecture").contents()
    if architecture not in ("llama", "deci"):
        return {}
    layers = reader.get_field(f"{architecture}.block_count").contents()
    out = {}
    for tensor, key in (("attn_q", "head_count"), ("attn_k", "head_count_kv")):
        count = reader.get_field(f"{architecture}.attention.{key}").contents()
        out[tensor] = count if isinstance(count, list) else [int(count)] * layers
    return out


def compare_tensors(binary, path, folder):
    """Every tensor as kvsmith reads it, against dequantize()."""
    kvsmith(binary, "export", path, "--format", "kvsmith", "--output", folder / "read.safetensors", "--force", "-q")
    ours = load_file(folder / "read.safetensors")
    reader = GGUFReader(path)
    heads = heads_of(reader)
    types = {}
    for tensor in reader.tensors:
        theirs = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32).reshape(tensor.shape[::-1])
        read = to_pairs(tensor.name, ours[our_name(tensor.name)], heads)
        assert read.tobytes() == theirs.tobytes(), tensor.name
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    assert len(reader.tensors) == len([name for name in ours if not name.startswith("tokenizer")])
    print(f"{path.name}: {len(reader.tensors)} tensors equal bit for bit, {types}")


def random_blocks(random, kind, shape):
    if kind == "F32":
        return random.normal(size=shape).astype(numpy.float32)
    elements, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = random.integers(0, 256, (shape[0], shape[1] // elements, size), dtype=numpy.uint8)
    for byte in SCALES[kind]:
        data[..., byte] &= 0xAF
    return data.reshape(shape[0], -1)


def write_random(path, architecture, kv_heads):
    """A model with matrices of every type, of random bytes; with as many key/value heads in its layers."""
    random = numpy.random.default_rng(0)
    width, inner, vocabulary, head = 256, 512, 96, 64
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(len(kv_heads))
    writer.add_feed_forward_length(inner)
    writer.add_head_count(width // head)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head)
    writer.add_tokenizer_model("none")
    matrices = {"token_embd.weight": (vocabulary, width), "output.weight": (vocabulary, width)}
    for layer, count in enumerate(kv_heads):
        shapes = {"attn_q": (width, width), "attn_k": (count * head, width), "attn_v": (count * head, width), "attn_output": (width, width),
                  "ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
        matrices |= {f"blk.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    kinds = ["F32", *SCALES]
    for i, (name, shape) in enumerate(matrices.items()):
        kind = kinds[i % len(kinds)]
        data = random_blocks(random, kind, shape)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind])
    norms = ["output_norm.weight"] + [f"blk.{layer}.{name}.weight" for layer in range(len(kv_heads)) for name in ("attn_norm", "ffn_norm")]
    for name in norms:
        writer.add_tensor(name, random.normal(1, 0.1, width).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def train_tokenizer(binary, folder):
    text = folder / "text.txt"
    text.write_text("".join(f"{i}: How now, good {'sir' if i % 3 else 'lady'}? Café {i * i}.\n" for i in range(3000)))
    kvsmith(binary, "tokenizer", "train", text, "--vocab-size", 320, "--output", folder / "t.model", "-q")


def random_transformers_model(folder, architecture, tied, extra):
    torch.manual_seed(0)
    config = architecture.config_class(vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                       num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, bos_token_id=1,
                                       eos_token_id=2, tie_word_embeddings=tied, max_position_embeddings=128, **extra)
    model = architecture(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.save_pretrained(folder)
    return model


def import_by_transformers(path):
    """As AutoModelForCausalLM.from_pretrained(gguf_file=...) does, which wants one more package."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path.parent, gguf_file=path.name), dtype=torch.float32).eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, surplus = model.load_state_dict(tensors, strict=False)
    assert not surplus and set(missing) <= {"lm_head.weight"}, (missing, surplus)
    assert model.config.tie_word_embeddings or not missing
    return model


def compare_export(binary, folder, name, architecture, tied, extra={}):
    model = random_transformers_model(folder / name, architecture, tied, extra)
    (folder / name / "tokenizer.model").write_bytes((folder / "t.model").read_bytes())
    ids = [(i * 7919 + 1) % 320 for i in range(60)]
    (folder / "ids.json").write_text(json.dumps(ids))
    weights = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    for kind in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        path = folder / f"{name}-{kind}.gguf"
        kvsmith(binary, "export", folder / name, "--format", "gguf", "--gguf-type", kind, "--output", path, "-q")
        reader = GGUFReader(path)
        heads = heads_of(reader)
        for tensor in reader.tensors:
            values = to_pairs(tensor.name, weights[our_name(tensor.name)], heads)
            wanted = numpy.ascontiguousarray(values)
            if tensor.tensor_type != GGMLQuantizationType.F32:
                wanted = quantize(wanted, tensor.tensor_type)
            assert tensor.data.tobytes() == wanted.tobytes(), (path.name, tensor.name)
        compare_tensors(binary, path, folder)
        imported = import_by_transformers(path)
        kvsmith(binary, "logits", path, "--tokens", folder / "ids.json", "--protocol", "parallel",
                "--output", folder / "logits.npy", "--force")
        with torch.no_grad():
            theirs = imported(torch.tensor([ids])).logits[0].numpy()
            original = model(torch.tensor([ids])).logits[0].numpy()
        ours = numpy.load(folder / "logits.npy")
        worst, loss = float(numpy.abs(ours - theirs).max()), float(numpy.abs(ours - original).max())
        print(f"{path.name}: {type(imported).__name__}, logits to {abs(original).max():.1f}, largest logit difference {worst:.2e}; "
              f"to the source {loss:.2e}")
        assert worst <= LARGEST_LOGIT_DIFFERENCE
        assert kind != "f32" or loss <= LARGEST_LOGIT_DIFFERENCE


def main():
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for architecture, kv_heads in (("llama", [2, 2]), ("deci", [4, 2, 1])):
            write_random(folder / f"random-{architecture}.gguf", architecture, kv_heads)
            compare_tensors(binary, folder / f"random-{architecture}.gguf", folder)
        for path in sys.argv[2:]:
            compare_tensors(binary, Path(path), folder)
        train_tokenizer(binary, folder)
        compare_export(binary, folder, "llama", LlamaForCausalLM, tied=True)
        compare_export(binary, folder, "llama-untied", LlamaForCausalLM, tied=False, extra={"rope_theta": 5e4})
        compare_export(binary, folder, "qwen2", Qwen2ForCausalLM, tied=False)
        # whatever the file says, transformers takes heads of Qwen3 to be 128 wide
        compare_export(binary, folder, "qwen3", Qwen3ForCausalLM, tied=True, extra={"head_dim": 128})


main()
