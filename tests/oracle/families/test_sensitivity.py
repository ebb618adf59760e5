"""The zoo notices what it is there for: a model that differs in one detail differs in its logits by far more than the
tolerance of test_families.py."""

import copy

import numpy as np
import pytest
import torch
from model_zoo import CONTEXT, VOCAB, WINDOW, all_variants, make_model
from reference import NOISE_MARGIN, Reference

VARIANTS = all_variants()


def rope_change(**fields):
    return lambda config: config.rope_parameters.update(fields)


def layer_rope_change(layer_type, **fields):
    return lambda config: config.rope_parameters[layer_type].update(fields)


def change(**fields):
    return lambda config: config.update(fields)


DETAILS = {
    "rope base": ("llama-2", rope_change(rope_theta=10100.0)),
    "norm epsilon": ("llama-2", change(rms_norm_eps=1e-3)),
    "linear factor": ("llama-linear", rope_change(factor=4.05)),
    "llama3 scaling left out": ("llama-3", rope_change(rope_type="default")),
    "llama3 high_freq_factor": ("llama-3", rope_change(high_freq_factor=3.5)),
    "yarn attention factor": ("llama-yarn", rope_change(attention_factor=1.0)),
    "yarn beta_fast": ("llama-yarn-tuned", rope_change(beta_fast=4.0)),
    "yarn mscale": ("llama-yarn-mscale", rope_change(mscale=1.0)),
    "yarn truncation": ("llama-yarn-untruncated", rope_change(truncate=True)),
    "dynamic scaling left out": ("llama-dynamic", rope_change(rope_type="default")),
    "no window": ("mistral-window", change(sliding_window=None)),
    "window one too long": ("mistral-window", change(sliding_window=WINDOW + 1)),
    "window one too short": ("mistral-window", change(sliding_window=WINDOW - 1)),
    "window of the wrong layers": ("qwen2-window", change(layer_types=["sliding_attention"] * 2 + ["full_attention"] * 2)),
    "window of all layers": ("qwen3-window", change(layer_types=["sliding_attention"] * 4)),
    "pattern": ("gemma3-text", change(layer_types=["sliding_attention"] * 7)),
    "base of sliding layers": ("gemma3-text", layer_rope_change("sliding_attention", rope_theta=1000000.0)),
    "base of global layers": ("gemma3-text", layer_rope_change("full_attention", rope_theta=10000.0)),
    "scaling of global layers": ("gemma3-scaled", layer_rope_change("full_attention", rope_type="default")),
    "scaling of sliding layers too": ("gemma3-scaled", layer_rope_change("sliding_attention", rope_type="linear", factor=8.0)),
    "score scale": ("gemma3-scalar", change(query_pre_attn_scalar=128)),
    "activation": ("gemma3-text", change(hidden_activation="gelu")),
    "silu instead of gelu": ("gemma3-text", change(hidden_activation="silu")),
    "short factors": ("phi3-mini-128k", lambda config: rope_change(long_factor=config.rope_parameters["short_factor"])(config)),
    "longrope attention factor": ("phi3-4-mini", rope_change(attention_factor=1.0)),
    "NoPE layers": ("smollm3", change(no_rope_layers=[1] * 5)),
}


@pytest.mark.parametrize("detail", DETAILS)
def test_detail_shows(detail):
    name, apply = DETAILS[detail]
    variant = VARIANTS[name]
    right = make_model(variant)
    other_config = copy.deepcopy(variant.config)
    apply(other_config)
    wrong = type(right)._from_config(other_config, attn_implementation="eager").eval()
    wrong.load_state_dict(right.state_dict())
    ids = np.random.default_rng(0).integers(0, VOCAB, CONTEXT).tolist()
    reference = Reference(right, CONTEXT)
    expected = reference.logits(ids)
    difference = np.abs(Reference(wrong, CONTEXT).logits(ids) - expected).max() / np.abs(expected).max()
    tolerance = NOISE_MARGIN * reference.noise(ids)
    print(f"{difference / tolerance:.0f} times the tolerance")
    assert difference > 10 * tolerance


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_shows(name):
    """Each tensor, shaken, changes the logits: none is there that a wrong loader could leave out."""
    model = make_model(VARIANTS[name])
    ids = np.random.default_rng(0).integers(0, VOCAB, CONTEXT).tolist()
    reference = Reference(model, CONTEXT)
    expected = reference.logits(ids)
    tolerance = NOISE_MARGIN * reference.noise(ids) * np.abs(expected).max()
    generator = torch.Generator().manual_seed(1)
    for tensor_name, tensor in model.named_parameters():
        if "vision" in tensor_name or "multi_modal" in tensor_name:
            continue
        kept = tensor.detach().clone()
        tensor.data.mul_(0.9 + 0.2 * torch.rand(tensor.shape, generator=generator))
        difference = np.abs(Reference(model, CONTEXT).logits(ids) - expected).max()
        tensor.data.copy_(kept)
        assert difference > 10 * tolerance, f"{tensor_name}: {difference:.1e}"
