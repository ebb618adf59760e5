"""Loading GGUF against llama.cpp's Python package."""

import gguf
import numpy as np
import pytest
from loader_tool import MODEL, read_config, run_tool

GGUF_TO_CANONICAL = {
    "attn_norm.weight": "input_norm",
    "attn_q.weight": "q_proj",
    "attn_k.weight": "k_proj",
    "attn_v.weight": "v_proj",
    "attn_output.weight": "o_proj",
    "ffn_norm.weight": "mlp_norm",
    "ffn_gate.weight": "gate_proj",
    "ffn_up.weight": "up_proj",
    "ffn_down.weight": "down_proj",
}


def canonical_name(name):
    if name.startswith("blk."):
        _, layer, rest = name.split(".", 2)
        return f"layers.{layer}.{GGUF_TO_CANONICAL[rest]}"
    return {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm", "output.weight": "lm_head"}[name]


def split_half_rows(matrix, num_heads):
    """Model order of rows that llama.cpp's converter stored pairwise: the inverse of its permutation."""
    head_dim = matrix.shape[0] // num_heads
    paired = matrix.reshape(num_heads, head_dim // 2, 2, *matrix.shape[1:])
    return paired.swapaxes(1, 2).reshape(matrix.shape)


def expected_values(tensor, config):
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    values = values.reshape([int(size) for size in reversed(tensor.shape)]).astype(np.float32)
    if tensor.name.endswith("attn_q.weight"):
        values = split_half_rows(values, int(config["num_heads"]))
    if tensor.name.endswith("attn_k.weight"):
        values = split_half_rows(values, int(config["num_kv_heads"]))
    return values


@pytest.fixture(scope="module")
def reader():
    return gguf.GGUFReader(MODEL)


@pytest.fixture(scope="module")
def config():
    return read_config(MODEL)


def test_tensor_list_matches(reader):
    ours = dict(line.split(" ", 1) for line in run_tool(MODEL, "list").decode().splitlines())
    theirs = {
        canonical_name(t.name): f"{t.tensor_type.name} {[int(size) for size in reversed(t.shape)]}"
        for t in reader.tensors
    }
    assert ours == theirs


@pytest.mark.parametrize("part", ["token_embd", "output_norm", *(f"blk.{layer}" for layer in range(30))])
def test_dequantised_values_match(reader, config, part):
    tensors = [t for t in reader.tensors if t.name.startswith(part + ".")]
    assert tensors
    raw = run_tool(MODEL, "read", *(canonical_name(t.name) for t in tensors))
    ours = np.frombuffer(raw, dtype=np.float32)
    offset = 0
    for tensor in tensors:
        expected = expected_values(tensor, config)
        actual = ours[offset : offset + expected.size].reshape(expected.shape)
        offset += expected.size
        # One multiplication and one addition; a compiler that fuses them rounds once instead of twice.
        tolerance = float(np.abs(expected).max()) * 2.0**-23
        worst = float(np.abs(actual - expected).max())
        assert worst <= tolerance, f"{tensor.name} ({tensor.tensor_type.name}): {worst} > {tolerance}"
    assert offset == ours.size


def test_every_type_of_the_file_is_compared(reader):
    assert {t.tensor_type.name for t in reader.tensors} == {"F32", "Q8_0", "Q4_1"}


def test_configuration_matches(reader, config):
    def field(key):
        return reader.fields[key].parts[-1][0]

    assert int(config["num_layers"]) == field("llama.block_count")
    assert int(config["num_heads"]) == field("llama.attention.head_count")
    assert int(config["vocab_size"]) == field("llama.vocab_size")
    assert int(config["eos_id"]) == field("tokenizer.ggml.eos_token_id")
    assert int(config["num_merges"]) == len(reader.fields["tokenizer.ggml.merges"].data)
    assert int(config["num_parameters"]) == sum(int(np.prod(t.shape)) for t in reader.tensors)


def write_small_metadata(writer, *, hidden, intermediate, heads, kv_heads, tokens):
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantised_file(path, quant_type, seed, **writer_options):
    """A one-layer llama GGUF whose projections have this type."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama", **writer_options)
    write_small_metadata(writer, hidden=64, intermediate=96, heads=2, kv_heads=1, tokens=["a", "b", "ab"])
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    shapes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        writer.add_tensor(f"blk.0.{name}.weight", gguf.quants.quantize(values, quant_type), raw_dtype=quant_type)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, dtype=np.float32))
    embeddings = random.standard_normal((3, 64), dtype=np.float32)
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(embeddings, quant_type), raw_dtype=quant_type)
    finish(writer)


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_types_written_by_the_reference_package(tmp_path, type_name):
    path = tmp_path / "small.gguf"
    quantised_file(path, gguf.GGMLQuantizationType[type_name], seed=len(type_name))
    config = read_config(path)
    for tensor in gguf.GGUFReader(path).tensors:
        expected = expected_values(tensor, config)
        actual = np.frombuffer(run_tool(path, "read", canonical_name(tensor.name)), dtype=np.float32)
        np.testing.assert_array_equal(actual.reshape(expected.shape), expected, err_msg=tensor.name)


@pytest.mark.parametrize("options", [{"split_max_tensors": 4}, {"split_max_tensors": 1}, {"split_max_size": 8000},
                                     {"split_max_tensors": 6, "small_first_shard": True}])
def test_parts_written_by_the_reference_package(tmp_path, options):
    whole, parts = tmp_path / "whole.gguf", tmp_path / "parts"
    parts.mkdir()
    quantised_file(whole, gguf.GGMLQuantizationType.Q8_0, seed=5)
    quantised_file(parts / "small.gguf", gguf.GGMLQuantizationType.Q8_0, seed=5, **options)
    files = sorted(parts.iterdir())
    assert len(files) > 1 and files[0].name == f"small-00001-of-{len(files):05d}.gguf"
    for path in (files[0], parts):
        assert run_tool(path, "list") == run_tool(whole, "list")
        config, expected = read_config(path), read_config(whole)
        assert config == expected
        names = [line.split()[0] for line in run_tool(whole, "list").decode().splitlines()]
        assert run_tool(path, "read", *names) == run_tool(whole, "read", *names)


HALF_FIELDS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}


@pytest.mark.parametrize("type_name", HALF_FIELDS)
def test_blocks_of_any_bits(tmp_path, type_name):
    """Types that the reference package reads but cannot write: any bits are a block, but for the float16 factors."""
    quant_type = gguf.GGMLQuantizationType[type_name]
    elements, block_bytes = gguf.GGML_QUANT_SIZES[quant_type]
    random = np.random.default_rng(len(type_name))
    path = tmp_path / "small.gguf"
    shape = (64, 256)  # of every projection and of the embedding

    def blocks():
        raw = random.integers(0, 256, (shape[0] * shape[1] // elements, block_bytes), dtype=np.uint8)
        for offset in HALF_FIELDS[type_name]:
            raw[:, offset : offset + 2] = random.standard_normal(len(raw)).astype(np.float16).view(np.uint8).reshape(-1, 2)
        return raw.reshape(shape[0], -1)

    writer = gguf.GGUFWriter(path, "llama")
    write_small_metadata(writer, hidden=256, intermediate=64, heads=4, kv_heads=4, tokens=[f"t{i}" for i in range(64)])
    # Square or not, llama's shapes follow from these: q, k, v and o are [256, 256], gate and up [64, 256], down [256, 64].
    for name in ("ffn_gate", "ffn_up"):
        writer.add_tensor(f"blk.0.{name}.weight", blocks(), raw_dtype=quant_type)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", np.concatenate([blocks() for _ in range(4)]), raw_dtype=quant_type)
    writer.add_tensor("blk.0.ffn_down.weight", random.standard_normal((256, 64), dtype=np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(256, dtype=np.float32))
    writer.add_tensor("token_embd.weight", blocks(), raw_dtype=quant_type)
    finish(writer)

    config = read_config(path)
    for tensor in gguf.GGUFReader(path).tensors:
        expected = expected_values(tensor, config)
        actual = np.frombuffer(run_tool(path, "read", canonical_name(tensor.name)), dtype=np.float32)
        np.testing.assert_array_equal(actual.reshape(expected.shape), expected, err_msg=tensor.name)
