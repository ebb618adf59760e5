"""Writes a transformers model as GGUF: names, metadata and layout of tensors as published files of each architecture have them."""

import json
import math

import gguf
import numpy as np
import torch

from model_zoo import VOCAB, make_tokenizer

GGUF_ARCH = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
}
# Architectures whose files rotate neighbouring pairs (0, 1), (2, 3) of a head, not halves (0, D/2): rows are reordered.
PAIRWISE_ROTATION = ("llama", "smollm3")

WRITABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
# Types that the package reads but cannot write, with the places of their blocks' float16 factors: any other bits will do.
HALF_FACTORS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}
ALL_TYPES = (*WRITABLE, *HALF_FACTORS)


def random_blocks(shape, type_name, std, random):
    """Blocks of random bits whose values have about this standard deviation."""
    quant_type = gguf.GGMLQuantizationType[type_name]
    elements, block_bytes = gguf.GGML_QUANT_SIZES[quant_type]
    raw = random.integers(0, 256, (math.prod(shape) // elements, block_bytes), dtype=np.uint8)

    def set_factors(factor):
        for offset in HALF_FACTORS[type_name]:
            # The second of two factors is that of the minimums, which are taken off: this centres the values.
            value = factor * (1 if offset == HALF_FACTORS[type_name][0] else MINIMUM_FACTOR[type_name])
            raw[:, offset : offset + 2] = np.full(len(raw), value, np.float16).view(np.uint8).reshape(-1, 2)

    set_factors(1.0)
    unit_std = gguf.quants.dequantize(raw, quant_type).std()
    set_factors(std / unit_std)
    return raw.reshape(*shape[:-1], -1)


# Half of the largest quant: what the mean of the scaled quants is.
MINIMUM_FACTOR = {"Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}


def pairwise_rows(tensor, num_heads):
    """Rows of q or k from halves to pairs."""
    halves = tensor.reshape(num_heads, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


class Converter:
    """One model on its way into a file. `values` are those that the file stands for, by transformers' names."""

    def __init__(self, variant, model, type_name, seed=0):
        self.arch = variant.gguf
        self.config = variant.text_config()
        self.type_name = type_name
        self.random = np.random.default_rng(seed)
        self.names = gguf.get_tensor_name_map(GGUF_ARCH[self.arch], self.config.num_hidden_layers)
        self.state = {name: tensor for name, tensor in model.state_dict().items() if not self.is_tied(name)}
        self.values = {}

    def is_tied(self, name):
        return name == "lm_head.weight" and self.config.tie_word_embeddings

    def write(self, path):
        writer = gguf.GGUFWriter(path, self.arch)
        self.write_shape(writer)
        self.write_attention(writer)
        self.write_rope(writer)
        write_tokenizer(writer)
        for name, tensor in self.state.items():
            self.write_tensor(writer, name, tensor.numpy())
        self.write_rope_tensors(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return self.values

    def write_shape(self, writer):
        config = self.config
        writer.add_name("tiny")
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)

    def head_dim(self):
        return getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads

    def write_attention(self, writer):
        config = self.config
        if self.arch in ("llama", "smollm3"):
            writer.add_vocab_size(config.vocab_size)
        if getattr(config, "head_dim", None):
            writer.add_key_length(config.head_dim)
            writer.add_value_length(config.head_dim)
        if self.arch == "gemma3":
            writer.add_sliding_window(config.sliding_window)
            if config.final_logit_softcapping:
                writer.add_final_logit_softcapping(config.final_logit_softcapping)
        if self.arch == "phi3":
            writer.add_sliding_window(config.sliding_window or 0)

    def rope_parameters(self):
        return self.config.rope_parameters.get("full_attention", self.config.rope_parameters)

    def rotary_dims(self):
        return int(self.head_dim() * self.rope_parameters().get("partial_rotary_factor", 1.0))

    def write_rope(self, writer):
        rope = self.rope_parameters()
        writer.add_rope_freq_base(rope["rope_theta"])
        if self.arch in (*PAIRWISE_ROTATION, "phi3"):
            writer.add_rope_dimension_count(self.rotary_dims())
        kind = rope["rope_type"]
        if kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        if kind == "yarn":
            self.write_yarn(writer, rope)
        if self.arch == "phi3":
            writer.add_rope_scaling_orig_ctx_len(self.config.original_max_position_embeddings)
        if kind == "longrope":
            scale = self.config.max_position_embeddings / self.config.original_max_position_embeddings
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(self.config.original_max_position_embeddings)))

    def write_yarn(self, writer, rope):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if rope.get("attention_factor") is not None:
            writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            # The converter has no key for these; readers multiply the usual factor by attn_factor.
            per_log = 0.1 * math.log(rope["factor"])
            factor = (per_log * rope["mscale"] + 1) / (per_log * rope["mscale_all_dim"] + 1)
            writer.add_rope_scaling_attn_factors(factor / (per_log + 1))
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        if "beta_slow" in rope:
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])

    def write_rope_tensors(self, writer):
        rope = self.rope_parameters()
        if rope["rope_type"] == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, self.rotary_dims()))
        if rope["rope_type"] == "longrope":
            writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
            writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))

    def write_tensor(self, writer, name, values):
        if self.arch == "gemma3" and name.endswith("norm.weight"):
            values = values + np.float32(1)
        num_heads = self.rotated_heads(name)
        if num_heads:
            values = pairwise_rows(values, num_heads)
        stored, type_name = self.store(values)
        target = self.names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target, f"GGUF has no name for {name}"
        writer.add_tensor(target, stored, raw_dtype=gguf.GGMLQuantizationType[type_name])
        self.values[name] = self.read_back(name, stored, type_name, values.shape, num_heads)

    def rotated_heads(self, name):
        """Heads whose rows change places; 0: none do."""
        if self.arch not in PAIRWISE_ROTATION:
            return 0
        if "q_proj" in name:
            return self.config.num_attention_heads
        return self.config.num_key_value_heads if "k_proj" in name else 0

    def store(self, values):
        """As bytes of the file's type; vectors are always float32."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        if values.ndim == 1 or self.type_name == "F32":
            return values, "F32"
        if self.type_name in HALF_FACTORS:
            return random_blocks(values.shape, self.type_name, float(values.std()), self.random), self.type_name
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[self.type_name]), self.type_name

    def read_back(self, name, stored, type_name, shape, num_heads):
        values = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[type_name]).reshape(shape).astype(np.float32)
        if num_heads:
            values = values.reshape(num_heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        if self.arch == "gemma3" and name.endswith("norm.weight"):
            values = values - np.float32(1)
        return torch.from_numpy(np.ascontiguousarray(values))


def llama3_divisors(rope, dims):
    """How much slower each pair turns than without scaling."""
    divisors = []
    for index in range(0, dims, 2):
        turns = rope["original_max_position_embeddings"] / (2 * math.pi * rope["rope_theta"] ** (index / dims))
        smooth = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        smooth = min(max(smooth, 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, np.float32)


def write_tokenizer(writer):
    tokenizer = json.loads(make_tokenizer().to_str())
    tokens = dict(tokenizer["model"]["vocab"]) | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ordered = sorted(tokens, key=tokens.get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(ordered)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in ordered])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(VOCAB - 2)
    writer.add_eos_token_id(VOCAB - 1)


def write_gguf(variant, model, path, type_name):
    """Writes the file and gives `model` the values that it stands for."""
    values = Converter(variant, model, type_name).write(path)
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
