"""Loading Hugging Face folders against numpy."""

import json
import struct
import subprocess

import numpy as np
import pytest
from loader_tool import TOOL, read_config, run_tool

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
        ("post_attention_layernorm", "mlp_norm"),
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
    assert f"{tmp_path}: holds no model; expected config.json" in done.stderr.decode()
