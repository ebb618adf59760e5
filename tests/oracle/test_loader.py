"""The loader against independent readers: llama.cpp's Python package for GGUF, numpy for safetensors."""

import json
import os
import pathlib
import struct
import subprocess

import gguf
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
BUILD_DIR = ROOT / os.environ.get("KVCRUSH_BUILD_DIR", "build/cpu-release")
TOOL = BUILD_DIR / "tests/unit/loader/dump_weights"

GGUF_TO_CANONICAL = {
    "attn_norm.weight": "input_norm",
    "attn_q.weight": "q_proj",
    "attn_k.weight": "k_proj",
    "attn_v.weight": "v_proj",
    "attn_output.weight": "o_proj",
    "ffn_norm.weight": "post_attention_norm",
    "ffn_gate.weight": "gate_proj",
    "ffn_up.weight": "up_proj",
    "ffn_down.weight": "down_proj",
}


def run_tool(model, *arguments):
    done = subprocess.run([TOOL, model, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def read_config(model):
    return dict(line.split("=", 1) for line in run_tool(model, "config").decode().splitlines())


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


def quantised_file(path, quant_type, seed):
    """A one-layer llama GGUF whose projections have this type; the values that went in are returned too."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
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


HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "tie_word_embeddings": False,
    "eos_token_id": [4],
}

HF_TOKENIZER = {
    "version": "1.0",
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "added_tokens": [
        {"id": 3, "content": "<|im_start|>", "special": True},
        {"id": 4, "content": "<|im_end|>", "special": True},
    ],
}


def hf_shapes():
    shapes = {"model.embed_tokens.weight": (8, 32), "model.norm.weight": (32,), "lm_head.weight": (8, 32)}
    layer = {
        "input_layernorm": (32,),
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (16, 32),
        "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32),
        "post_attention_layernorm": (32,),
        "mlp.gate_proj": (48, 32),
        "mlp.up_proj": (48, 32),
        "mlp.down_proj": (32, 48),
    }
    for index in range(2):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def hf_canonical(name):
    name = name.removeprefix("model.").removesuffix(".weight")
    for old, new in (
        ("self_attn.", ""),
        ("mlp.", ""),
        ("post_attention_layernorm", "post_attention_norm"),
        ("input_layernorm", "input_norm"),
    ):
        name = name.replace(old, new)
    return name


def encode(values, dtype):
    """Stored bytes, and the float32 values that they stand for."""
    if dtype == "BF16":
        bits = values.view(np.uint32) >> 16
        return bits.astype(np.uint16).tobytes(), (bits << 16).view(np.float32)
    stored = values.astype({"F32": np.float32, "F16": np.float16}[dtype])
    return stored.tobytes(), stored.astype(np.float32)


def write_safetensors(path, tensors, dtype):
    header, data, expected = {"__metadata__": {"format": "pt"}}, b"", {}
    for name, values in tensors.items():
        stored, expected[name] = encode(values, dtype)
        offsets = [len(data), len(data) + len(stored)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += stored
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return expected


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_hugging_face_directory(tmp_path, dtype, sharded):
    random = np.random.default_rng(3)
    tensors = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in hf_shapes().items()}
    (tmp_path / "config.json").write_text(json.dumps(HF_CONFIG))
    (tmp_path / "tokenizer.json").write_text(json.dumps(HF_TOKENIZER))
    if sharded:
        names = list(tensors)
        weight_map, expected = {}, {}
        for number, part in enumerate((names[:9], names[9:])):
            file = f"model-{number + 1:05}-of-00002.safetensors"
            expected |= write_safetensors(tmp_path / file, {name: tensors[name] for name in part}, dtype)
            weight_map |= dict.fromkeys(part, file)
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        expected = write_safetensors(tmp_path / "model.safetensors", tensors, dtype)

    config = read_config(tmp_path)
    assert config["head_dim"] == "8"
    assert config["rope_base"] == "50000"
    assert config["tied_embeddings"] == "0"
    assert config["pre_tokenizer"] == "gpt-2"
    assert config["eos_id"] == "4"
    assert config["weight_dtype"] == dtype
    listed = [line.split(" ")[0] for line in run_tool(tmp_path, "list").decode().splitlines()]
    assert sorted(listed) == sorted(hf_canonical(name) for name in expected)
    for name, values in expected.items():
        actual = np.frombuffer(run_tool(tmp_path, "read", hf_canonical(name)), dtype=np.float32)
        np.testing.assert_array_equal(actual.reshape(values.shape), values, err_msg=name)


def test_a_broken_directory_is_an_error_that_names_the_file(tmp_path):
    done = subprocess.run([TOOL, tmp_path, "config"], capture_output=True, check=False)
    assert done.returncode == 1
    assert "config.json: no such file" in done.stderr.decode()
