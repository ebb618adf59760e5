"""Llama in plain PyTorch, one sequence at a time, over keys and values the caller owns.

Shapes: L layers, H query heads, K key-value heads, D channels of a head, T new tokens, n cached tokens. Keys are
stored rotated, so attention needs no positions and a cached token can be dropped without touching the others.
"""

import dataclasses
import math
import pathlib

import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Layer:
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    qkv: torch.Tensor  # [(H + 2K) D, hidden]
    output: torch.Tensor  # [hidden, H D]
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclasses.dataclass
class Llama:
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    rope_theta: float
    embedding: torch.Tensor
    norm: torch.Tensor
    lm_head: torch.Tensor
    layers: list

    @property
    def group(self):
        """Query heads per key-value head."""
        return self.heads // self.kv_heads


def load(gguf):
    """Weights of a GGUF file, dequantised to float32 by transformers."""
    from transformers import AutoModelForCausalLM

    path = pathlib.Path(gguf)
    source = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = source.config
    weights = {name: tensor.float().contiguous() for name, tensor in source.state_dict().items()}
    # transformers 5 moved the rotary base into a dictionary.
    theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    embedding = weights["model.embed_tokens.weight"]
    return Llama(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        eps=config.rms_norm_eps,
        rope_theta=theta,
        embedding=embedding,
        norm=weights["model.norm.weight"],
        lm_head=weights.get("lm_head.weight", embedding),
        layers=[_layer(weights, f"model.layers.{i}.") for i in range(config.num_hidden_layers)],
    )


def _layer(weights, prefix):
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    return Layer(
        attention_norm=weights[prefix + "input_layernorm.weight"],
        mlp_norm=weights[prefix + "post_attention_layernorm.weight"],
        qkv=torch.cat([weights[f"{attention}{name}_proj.weight"] for name in "qkv"]),
        output=weights[attention + "o_proj.weight"],
        gate_up=torch.cat([weights[mlp + "gate_proj.weight"], weights[mlp + "up_proj.weight"]]),
        down=weights[mlp + "down_proj.weight"],
    )


def load_tokenizer(gguf):
    from transformers import AutoTokenizer

    path = pathlib.Path(gguf)
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def linear_float32(x, weight):
    return x @ weight.T


def linear_bfloat16(x, weight):
    """Half the time of float32 on CPUs that have it; good enough where full and pruned cache share one prefill."""
    return (x.bfloat16() @ weight.bfloat16().T).float()


def rms_norm(x, weight, eps):
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rope_tables(model, positions):
    """Cosines and sines [T, D]; in float64 first, since late positions lose digits in float32."""
    exponents = torch.arange(0, model.head_dim, 2).double() / model.head_dim
    angles = (positions.double()[:, None] / model.rope_theta**exponents).float()
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x, tables):
    """Rotary embedding; channel i turns together with channel i + D/2."""
    cos, sin = tables
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def project(model, layer, x, linear=linear_float32):
    """x [T, hidden] -> queries [H, T, D], keys and values [K, T, D], before rotation."""
    widths = [model.heads * model.head_dim] + 2 * [model.kv_heads * model.head_dim]
    parts = linear(rms_norm(x, layer.attention_norm, model.eps), layer.qkv).split(widths, -1)
    return [part.reshape(len(x), -1, model.head_dim).transpose(0, 1).contiguous() for part in parts]


def finish_layer(model, layer, x, attended, linear=linear_float32):
    """Residual stream after attention output [H, T, D] and the MLP."""
    x = x + linear(attended.transpose(0, 1).reshape(len(x), -1), layer.output)
    gate, up = linear(rms_norm(x, layer.mlp_norm, model.eps), layer.gate_up).chunk(2, -1)
    return x + linear(F.silu(gate) * up, layer.down)


def logits(model, x):
    return rms_norm(x, model.norm, model.eps) @ model.lm_head.T


def prefill(model, ids):
    """Keys and values of a prompt, each [L, K, T, D] float32."""
    x, tables = model.embedding[ids], rope_tables(model, torch.arange(len(ids)))
    keys, values = [], []
    for layer in model.layers:
        q, k, v = project(model, layer, x)
        q, k = rotate(q, tables), rotate(k, tables)
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
        x = finish_layer(model, layer, x, attended)
        keys.append(k)
        values.append(v)
    return torch.stack(keys), torch.stack(values)


def decode(model, ids, first_position, keys, values, valid=None, seen=None):
    """Logits [T, vocabulary] of `ids` on top of a cache.

    keys, values: indexable by layer, each [K, n, D]; n may differ from layer to layer.
    valid: None, or per layer None or bool [K, n]: entries that a head may see, where heads keep unequal numbers.
    seen: None, or a list that takes (queries [H, T, D], keys, values [K, T, D]) of each layer, rotated.
    """
    count = len(ids)
    x, tables = model.embedding[ids], rope_tables(model, first_position + torch.arange(count))
    causal = torch.full((count, count), -math.inf).triu(1)
    for i, layer in enumerate(model.layers):
        q, k, v = project(model, layer, x)
        q, k = rotate(q, tables), rotate(k, tables)
        if seen is not None:
            seen.append((q, k, v))
        k, v = torch.cat([keys[i], k], 1), torch.cat([values[i], v], 1)
        # Query heads of one key-value head lie side by side: one matrix product per key-value head.
        q = q.reshape(model.kv_heads, -1, model.head_dim)
        scores = (q @ k.transpose(1, 2) / math.sqrt(model.head_dim)).view(model.kv_heads, model.group, count, -1)
        scores[..., -count:] += causal
        if valid is not None and valid[i] is not None:
            scores[..., :-count].masked_fill_(~valid[i][:, None, None], -math.inf)
        weights = scores.softmax(-1).view(model.kv_heads, model.group * count, -1)
        x = finish_layer(model, layer, x, (weights @ v).view(model.heads, count, model.head_dim))
    return logits(model, x)
