"""Every model family x file format x tensor type x RoPE variant: logits of the engine against transformers.

transformers gets the values that the file stands for (dequantised ones for quantised files). Adding a family is adding its
variants to model_zoo.py.
"""

import copy
import functools
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from logits_tool import LogitsTool
from model_zoo import CONTEXT, VOCAB, all_variants, make_model, save_safetensors
from old_config import old_config
from reference import NOISE_MARGIN, Reference, log_softmax, run
from safetensors.torch import load_file, save_file
from to_gguf import ALL_TYPES, write_gguf

VARIANTS = all_variants()
GGUF_VARIANTS = [name for name, variant in VARIANTS.items() if variant.gguf]
# One of each family meets every tensor type: types and RoPE have nothing to do with each other.
TYPED = ["llama-3", "mistral-full", "qwen2-default", "qwen3-default", "gemma3-text", "phi3-4-mini"]

HALF_TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


def random_ids(length, seed):
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    tool = LogitsTool(tmp_path_factory.mktemp("logits"))
    yield tool
    tool.close()


@functools.cache
def float_model(name):
    return make_model(VARIANTS[name])


@functools.cache
def reference_of(name):
    return Reference(copy.deepcopy(float_model(name)), CONTEXT)


@functools.cache
def noise_of(name):
    return reference_of(name).noise(random_ids(CONTEXT, seed=0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The float32 checkpoint of a variant, in shards; written once."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name):
        if not (root / name).exists():
            save_safetensors(float_model(name), root / name, shard_bytes=1 << 21)
        return root / name

    yield folder
    shutil.rmtree(root)


class Comparison:
    """Compares logits to the reference's and reports the worst element."""

    def __init__(self, name, reference):
        self.reference = reference
        self.relative = NOISE_MARGIN * noise_of(name)

    def check(self, what, ids, actual, first=0):
        """`actual` are the logits after ids[first], ids[first + 1], ..."""
        expected = self.reference.logits(ids)
        assert actual.shape == expected[first:].shape, what
        error = np.abs(actual - expected[first:])
        tolerance = self.relative * np.abs(expected).max()
        row, token = np.unravel_index(error.argmax(), error.shape)
        print(f"{what}: worst error {error.max():.1e} after position {first + row}, token {token}; tolerance {tolerance:.1e}")
        assert error.max() <= tolerance, (
            f"{what}: logit {actual[row, token]:.5f} of token {token} after position {first + row} should be "
            f"{expected[first + row, token]:.5f} +- {tolerance:.1e}; mean error {error.mean():.1e}"
        )


def open_model(tool, name, path, **options):
    tool.open(path, max_context_tokens=CONTEXT, **options)


def check_briefly(tool, name, path, reference):
    """One prompt in chunks, and decode."""
    open_model(tool, name, path)
    comparison = Comparison(name, reference)
    ids = random_ids(CONTEXT, seed=0)
    split = len(ids) // 2
    prompt, decoded = tool.logits(ids, (ids[:split], ids[split:]), max_batch_tokens=64)
    comparison.check("prompt", ids, prompt)
    comparison.check("decode", ids, decoded, first=split - 1)


def check_fully(tool, name, path, reference):
    open_model(tool, name, path)
    comparison = Comparison(name, reference)
    ids = random_ids(CONTEXT, seed=0)
    others = [random_ids(length, seed=length) for length in (1, 17, 50)]
    comparison.check("one chunk", ids, tool.logits(ids)[0])
    comparison.check("chunks of 7", ids, tool.logits(ids, max_batch_tokens=7)[0])
    comparison.check("decode from the first token", ids, tool.logits((ids[:1], ids[1:]))[0])
    split = len(ids) * 3 // 4
    batch = tool.logits(ids, *others, (ids[:split], ids[split:]), (others[2][:9], others[2][9:]), max_batch_tokens=48)
    for what, expected_ids, actual in zip(("first", "second", "third", "fourth"), [ids, *others], batch[:4], strict=True):
        comparison.check(f"batch, {what}", expected_ids, actual)
    comparison.check("batch, decode of the long one", ids, batch[4], first=split - 1)
    comparison.check("batch, decode of the short one", others[2], batch[5], first=8)


@pytest.mark.parametrize("name", VARIANTS)
def test_safetensors(tool, checkpoint, name):
    check_fully(tool, name, checkpoint(name), reference_of(name))


def without_type(parameters):
    """`rope_type` as older files spell it, which transformers keeps beside the new one."""
    return {name: value for name, value in parameters.items() if name != "type"}


@pytest.mark.parametrize("name", VARIANTS)
def test_config_of_transformers_4(tool, checkpoint, tmp_path, name):
    folder = shutil.copytree(checkpoint(name), tmp_path / "model")
    config = old_config(json.loads((folder / "config.json").read_text()))
    (folder / "config.json").write_text(json.dumps(config))
    read, written = transformers.AutoConfig.from_pretrained(folder).get_text_config(), VARIANTS[name].text_config()
    assert without_type(read.rope_parameters) == without_type(written.rope_parameters)
    assert getattr(read, "layer_types", None) == getattr(written, "layer_types", None)
    check_briefly(tool, name, folder, reference_of(name))


MULTIMODAL_NAMES = ("language_model.model.", "model.language_model.")


def test_both_namings_of_multimodal_checkpoints(tool, checkpoint, tmp_path):
    """language_model stands before model, or after it; the version of transformers that wrote the file decides."""
    folder = shutil.copytree(checkpoint("gemma3-nested"), tmp_path / "model")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    written = next(prefix for prefix in MULTIMODAL_NAMES if any(name.startswith(prefix) for name in index["weight_map"]))
    other = MULTIMODAL_NAMES[1 - MULTIMODAL_NAMES.index(written)]
    renamed = {}
    for file in set(index["weight_map"].values()):
        tensors = {name.replace(written, other, 1): values for name, values in load_file(folder / file).items()}
        renamed |= dict.fromkeys(tensors, file)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    assert renamed.keys() != index["weight_map"].keys()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index | {"weight_map": renamed}))
    check_briefly(tool, "gemma3-nested", folder, reference_of("gemma3-nested"))


@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("name", TYPED)
def test_half_safetensors(tool, tmp_path, name, dtype):
    model = copy.deepcopy(float_model(name))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(tensor.to(HALF_TYPES[dtype]))
    save_safetensors(copy.deepcopy(model).to(HALF_TYPES[dtype]), tmp_path)
    check_briefly(tool, name, tmp_path, Reference(model, CONTEXT))


@pytest.mark.parametrize("name", GGUF_VARIANTS)
def test_gguf(tool, tmp_path, name):
    model = copy.deepcopy(float_model(name))
    write_gguf(VARIANTS[name], model, tmp_path / "model.gguf", "F32")
    check_fully(tool, name, tmp_path / "model.gguf", Reference(model, CONTEXT))


@pytest.mark.parametrize("type_name", [name for name in ALL_TYPES if name != "F32"])
@pytest.mark.parametrize("name", TYPED)
def test_gguf_types(tool, tmp_path, name, type_name):
    model = copy.deepcopy(float_model(name))
    write_gguf(VARIANTS[name], model, tmp_path / "model.gguf", type_name)
    check_briefly(tool, name, tmp_path / "model.gguf", Reference(model, CONTEXT))


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_1", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("name", TYPED)
def test_weights_as_stored(tool, tmp_path, name, type_name):
    """Activations are rounded to 1/254 of a block's largest, 4-bit weights to groups of 64 under one scale: one to a few
    per cent of each product of random vectors, which layers add up. Another model's logits are wrong by their spread."""
    model = copy.deepcopy(float_model(name))
    write_gguf(VARIANTS[name], model, tmp_path / "model.gguf", type_name)
    open_model(tool, name, tmp_path / "model.gguf", weight_dtype="auto")
    ids = random_ids(CONTEXT, seed=0)
    expected = Reference(model, CONTEXT).logits(ids)
    error = np.abs(tool.logits(ids)[0] - expected).mean() / expected.std()
    print(f"mean error {error:.3f} of the logits' spread")
    assert error < 0.2


@pytest.mark.parametrize("name", VARIANTS)
def test_whole_engine(tool, checkpoint, name):
    """Scores and greedy tokens from the engine as the server drives it, prefix cache and all."""
    open_model(tool, name, checkpoint(name))
    reference = reference_of(name)
    tolerance = 2 * NOISE_MARGIN * noise_of(name)
    ids = random_ids(CONTEXT, seed=0)
    expected = log_softmax(reference.logits(ids))
    scored = np.array(tool.ask("score", prompt=ids[:10], continuation=ids[10:])["logprobs"])
    of_ids = expected[np.arange(9, len(ids) - 1), ids[10:]]
    largest = np.abs(reference.logits(ids)).max()
    np.testing.assert_allclose(scored, of_ids, rtol=0, atol=tolerance * largest)

    num_new = len(ids) // 3
    prompt = ids[: len(ids) - num_new]
    answer = tool.ask("generate", prompt=prompt, max_tokens=num_new)
    logits = reference.logits(prompt + answer["tokens"])[len(prompt) - 1 : -1]
    for step, (token, logprob) in enumerate(zip(answer["tokens"], answer["logprobs"], strict=True)):
        assert logits[step, token] >= logits[step].max() - tolerance * largest, f"step {step}"
        assert abs(log_softmax(logits[step])[token] - logprob) <= tolerance * largest, f"step {step}"


def test_transformers_unpinned_says_the_same_of_a_full_context():
    """Its dynamic frequencies are then those of the context served."""
    ids = random_ids(CONTEXT, seed=0)
    np.testing.assert_allclose(run(float_model("llama-dynamic"), ids), reference_of("llama-dynamic").logits(ids), rtol=0, atol=1e-4)
