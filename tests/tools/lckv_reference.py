"""A second implementation of the lckv-llama layout, from config.json and model.safetensors alone.

One token after another, so that nothing is iterated: a layer that reads ahead sees the keys of earlier
tokens only, and a token's first such row, which sees none, mixes to zero.
"""

import json
import math

import torch
from safetensors.torch import load_file


def rms_norm(x, weight, eps):
    return x * torch.rsqrt((x * x).mean() + eps) * weight


def rotate(x, position, theta):
    """x [heads, width], halves turned against each other."""
    half = x.shape[-1] // 2
    angle = position * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    a, b = x[:, :half], x[:, half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def lckv_logits(folder, ids):
    """[tokens, vocabulary] in fp64."""
    config = json.loads((folder / "config.json").read_text())
    weights = {name: value.double() for name, value in load_file(folder / "model.safetensors").items()}
    parts = config["layer_types"].split("_")
    sources = [int(part.rstrip("s")) for part in parts]
    heads, groups, theta, eps = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "rope_theta", "rms_norm_eps"))
    embeddings = weights["model.embed_tokens.weight"]
    head = embeddings if config["tie_word_embeddings"] else weights["lm_head.weight"]
    rows = {layer: [] for layer in set(sources)}

    def linear(name, x):
        out = weights[name + ".weight"] @ x
        return out + weights[name + ".bias"] if name + ".bias" in weights else out

    out = []
    for t, token in enumerate(ids):
        x = embeddings[token]
        for i, source in enumerate(sources):
            layer = f"model.layers.{i}."
            y = rms_norm(x, weights[layer + "input_layernorm.weight"], eps)
            if i in rows:
                key = rotate(linear(layer + "self_attn.k_proj", y).view(groups, -1), t, theta)
                rows[i].append((key, linear(layer + "self_attn.v_proj", y).view(groups, -1)))
            q = rotate(linear(layer + "self_attn.q_proj", y).view(heads, -1), t, theta)
            first = max(0, t + 1 - config["sliding_window"]) if parts[i].endswith("s") else 0
            seen = rows[source][first:]
            if seen:
                keys, values = (torch.stack(kind).repeat_interleave(heads // groups, 1) for kind in zip(*seen))
                weight = torch.softmax(torch.einsum("hd,thd->ht", q, keys) / math.sqrt(q.shape[-1]), -1)
                x = x + linear(layer + "self_attn.o_proj", torch.einsum("ht,thd->hd", weight, values).flatten())
            y = rms_norm(x, weights[layer + "post_attention_layernorm.weight"], eps)
            gate = torch.nn.functional.silu(linear(layer + "mlp.gate_proj", y))
            x = x + linear(layer + "mlp.down_proj", gate * linear(layer + "mlp.up_proj", y))
        out.append(head @ rms_norm(x, weights["model.norm.weight"], eps))
    return torch.stack(out)
