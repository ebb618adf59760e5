"""Low-bit keys and values: schemes, what they do to a cache, and what repeated pruning does to them.

Scales and minima are rounded to float16, as a server would store them. The newest WINDOW tokens stay in float16.
"""

import dataclasses
import functools
import math

import torch

from . import probe

WINDOW = 32
SINKS = 4
PRUNE_ROUNDS = 8
PRUNE_KEEP = 0.9


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Keys: per channel over `key_block` tokens (0: the whole prompt), or per token in groups of `key_group`."""

    key_group: int = 0
    key_block: int = 0
    value_group: int = 32
    rotate_keys: bool = False  # Hadamard before, its inverse after
    rotate_values: bool = False
    remove_key_mean: bool = False  # of the prompt, per channel
    exempt_sinks: bool = False  # the first SINKS tokens stay in float16, outside blocks and means
    bits: int = 4

    def stored_bits(self, tokens):
        """Bits per element of keys and of values, scales and minima counted."""
        per_key = self.key_group or self.key_block or tokens
        return self.bits + 32 / per_key, self.bits + 32 / self.value_group


SCHEMES = {
    "K/channel 32 tokens, V/token 32": Scheme(key_block=32),
    "K/channel 112 tokens, V/token 32": Scheme(key_block=112),
    "K/token 32, V/token 32": Scheme(key_group=32),
    "K/token 64, V/token 32": Scheme(key_group=64),
    "Hadamard, K,V/token 64": Scheme(key_group=64, value_group=64, rotate_keys=True, rotate_values=True),
    "K/channel whole prompt, V/token 32": Scheme(),
    "Hadamard, K,V/token 64, mean removed, sinks f16": Scheme(
        key_group=64, value_group=64, rotate_keys=True, rotate_values=True, remove_key_mean=True, exempt_sinks=True),
}
BASELINE = "K/channel 32 tokens, V/token 32"
DRIFT_SCHEMES = [BASELINE, "K/channel 112 tokens, V/token 32", "K/token 32, V/token 32", "Hadamard, K,V/token 64"]


def half(x):
    """Rounded to float16."""
    return x.half().float()


def round_to_grid(x, bits, dim):
    """Asymmetric quantisation with one scale and minimum along `dim`, and back."""
    top = 2**bits - 1
    minimum = half(x.amin(dim, True))
    scale = half((x.amax(dim, True) - minimum) / top).clamp_min(1e-7)  # a constant group must not divide by zero
    return ((x - minimum) / scale).round().clamp(0, top) * scale + minimum


def per_token(x, group, bits):
    """x [..., tokens, D], each token in groups of `group` channels."""
    return round_to_grid(x.unflatten(-1, (-1, group)), bits, -1).flatten(-2)


def per_channel(x, block, bits):
    """x [..., tokens, D], each channel over `block` tokens (0: all of them); the last block may be shorter."""
    tokens = x.shape[-2]
    if block == 0 or block >= tokens:
        return round_to_grid(x, bits, -2)
    whole = tokens // block * block
    result = round_to_grid(x[..., :whole, :].unflatten(-2, (-1, block)), bits, -2).flatten(-3, -2)
    if whole == tokens:
        return result
    return torch.cat([result, round_to_grid(x[..., whole:, :], bits, -2)], -2)


@functools.cache
def hadamard(size):
    """Orthonormal and symmetric: its own inverse."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def quantise_keys(scheme, keys):
    """[..., tokens, D] -> the same after a round trip."""
    mean = half(keys.mean(-2, True)) if scheme.remove_key_mean else 0.0
    x = keys - mean
    turn = hadamard(keys.shape[-1]) if scheme.rotate_keys else None
    x = x if turn is None else x @ turn
    if scheme.key_group:
        x = per_token(x, scheme.key_group, scheme.bits)
    else:
        x = per_channel(x, scheme.key_block, scheme.bits)
    x = x if turn is None else x @ turn
    return x + mean


def quantise_values(scheme, values):
    if not scheme.rotate_values:
        return per_token(values, scheme.value_group, scheme.bits)
    turn = hadamard(values.shape[-1])
    return per_token(values @ turn, scheme.value_group, scheme.bits) @ turn


def _with_ends(cache, middle, first, last):
    """`middle` between the cache's tokens before `first` and from `last` on, those in float16."""
    return torch.cat([half(cache[:, :, :first]), middle, half(cache[:, :, last:])], 2)


def measure(model, prompt, scheme):
    """Probe of the prompt's cache under `scheme` against the same cache in float32."""
    keys, values = prompt["keys"], prompt["values"]
    first, last = SINKS if scheme.exempt_sinks else 0, keys.shape[2] - WINDOW
    altered_keys = _with_ends(keys, quantise_keys(scheme, keys[:, :, first:last]), first, last)
    altered_values = _with_ends(values, quantise_values(scheme, values[:, :, first:last]), first, last)
    return probe.compare(model, prompt, prompt["reference"], altered_keys, altered_values)


def random_survivors(tokens, generator):
    """Indices that one prune keeps: the sinks and a random rest, PRUNE_KEEP of all."""
    order = torch.randperm(tokens, generator=generator)
    order = order[order >= SINKS]
    kept = order[: int(PRUNE_KEEP * tokens) - SINKS]
    return torch.cat([torch.arange(SINKS), kept]).sort()[0]


def measure_drift(model, prompt, scheme, seed):
    """(probe of survivors quantised once, probe of survivors quantised again after each prune).

    Both against the same survivors unquantised, so that only the repetition is seen, not the pruning.
    """
    last = prompt["keys"].shape[2] - WINDOW
    original_keys, original_values = prompt["keys"][:, :, :last], prompt["values"][:, :, :last]
    keys, values = quantise_keys(scheme, original_keys), quantise_values(scheme, original_values)
    generator, kept = torch.Generator().manual_seed(seed), torch.arange(last)
    for _ in range(PRUNE_ROUNDS):
        survivors = random_survivors(len(kept), generator)
        kept = kept[survivors]
        keys = quantise_keys(scheme, keys[:, :, survivors])
        values = quantise_values(scheme, values[:, :, survivors])
    original_keys, original_values = original_keys[:, :, kept], original_values[:, :, kept]

    def with_window(middle_keys, middle_values):
        return [torch.cat([middle, half(prompt[name][:, :, last:])], 2)
                for middle, name in ((middle_keys, "keys"), (middle_values, "values"))]

    expected = probe.reference(model, prompt, *with_window(original_keys, original_values))
    once = quantise_keys(scheme, original_keys), quantise_values(scheme, original_values)
    return [probe.compare(model, prompt, expected, *with_window(*pair)) for pair in (once, (keys, values))]
