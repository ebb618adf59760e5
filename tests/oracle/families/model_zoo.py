"""Tiny random checkpoints of every model family and RoPE variant, made by transformers: 3 to 7 layers, real head shapes."""

import dataclasses
import json
import math

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

torch.set_num_threads(1)  # matrices are too small to share

HIDDEN = 256  # a multiple of 256: rows hold whole blocks of every GGUF type
VOCAB = 320
CONTEXT = 160  # tokens served, and of the longest test sequence
WINDOW = 24  # of sliding layers: the longest sequence crosses it six times
ORIGINAL = 64  # context that scaled RoPE variants were "trained" on
NUM_END_TOKENS = 2


@dataclasses.dataclass(frozen=True)
class Variant:
    name: str
    family: str
    config: transformers.PretrainedConfig
    gguf: str | None  # general.architecture; None: GGUF has no way to say this

    def text_config(self):
        return self.config.get_text_config()


SHAPES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": VOCAB - 2,
    "eos_token_id": VOCAB - 1,
    "pad_token_id": None,
}


def rope(rope_type="default", **fields):
    return {"rope_type": rope_type, "rope_theta": 10000.0, **fields}


def llama(name, rope_parameters, **fields):
    config = transformers.LlamaConfig(**SHAPES | {"rms_norm_eps": 1e-5, "rope_parameters": rope_parameters} | fields)
    gguf_can = rope_parameters["rope_type"] != "dynamic" and rope_parameters.get("truncate", True)
    return Variant(f"llama-{name}", "llama", config, "llama" if gguf_can else None)


def llama_variants():
    yarn = {"factor": 4.0, "original_max_position_embeddings": ORIGINAL}
    return [
        llama("2", rope(), num_key_value_heads=4),
        llama("linear", rope("linear", factor=4.0)),
        llama("dynamic", rope("dynamic", factor=4.0), max_position_embeddings=ORIGINAL),
        llama("dynamic-within", rope("dynamic", factor=4.0)),
        llama(
            "3",
            rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=ORIGINAL)
            | {"rope_theta": 500000.0},
            tie_word_embeddings=True,
            num_key_value_heads=1,
        ),
        llama("yarn", rope("yarn", **yarn)),
        llama("yarn-tuned", rope("yarn", **yarn, attention_factor=1.25, beta_fast=2.0, beta_slow=0.25)),
        llama("yarn-mscale", rope("yarn", **yarn, mscale=1.5, mscale_all_dim=0.75)),
        llama("yarn-untruncated", rope("yarn", **yarn, truncate=False)),
        llama("biased", rope(), attention_bias=True),
        # SmolLM2-135M: heads in threes, a hidden size that K-quants do not divide, tied embeddings
        llama("smollm2", rope() | {"rope_theta": 100000.0}, hidden_size=192, num_attention_heads=3, num_key_value_heads=1,
              tie_word_embeddings=True),
    ]  # fmt: skip


def mistral(name, gguf, **fields):
    config = transformers.MistralConfig(
        **SHAPES | {"head_dim": 128, "rms_norm_eps": 1e-5, "rope_parameters": rope() | {"rope_theta": 1000000.0}} | fields
    )
    return Variant(f"mistral-{name}", "mistral", config, gguf)


def mistral_variants():
    return [mistral("window", None, sliding_window=WINDOW), mistral("full", "llama", sliding_window=None)]


def qwen2(name, gguf="qwen2", rope_parameters=None, **fields):
    parameters = rope_parameters or rope() | {"rope_theta": 1000000.0}
    config = transformers.Qwen2Config(**SHAPES | {"rope_parameters": parameters} | fields)
    return Variant(f"qwen2-{name}", "qwen2", config, gguf)


def qwen2_variants():
    return [
        qwen2("default", tie_word_embeddings=True),
        qwen2("window", None, num_hidden_layers=4, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
        qwen2("yarn", rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=ORIGINAL)),
    ]


def qwen3(name, gguf="qwen3", rope_parameters=None, **fields):
    parameters = rope_parameters or rope() | {"rope_theta": 1000000.0}
    config = transformers.Qwen3Config(**SHAPES | {"head_dim": 128, "rope_parameters": parameters} | fields)
    return Variant(f"qwen3-{name}", "qwen3", config, gguf)


def qwen3_variants():
    return [
        qwen3("default", tie_word_embeddings=True),
        qwen3("biased", attention_bias=True),
        qwen3("window", None, num_hidden_layers=4, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
        qwen3("yarn", rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=ORIGINAL)),
    ]


def gemma3_text(**fields):
    # Seven layers: five sliding, one global, and the pattern begins again.
    shapes = SHAPES | {"num_hidden_layers": 7, "head_dim": 256, "num_key_value_heads": 1, "sliding_window": WINDOW, "pad_token_id": 0}
    return transformers.Gemma3TextConfig(**shapes | {"rope_parameters": gemma3_rope(rope())} | fields)


def gemma3_rope(full):
    return {"full_attention": full | {"rope_theta": 1000000.0}, "sliding_attention": rope()}


def gemma3_variants():
    scaled = gemma3_rope(rope("linear", factor=8.0))
    nested = transformers.Gemma3Config(
        text_config=gemma3_text(num_key_value_heads=2, rope_parameters=scaled).to_dict(),
        vision_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
                       "patch_size": 14},
        mm_tokens_per_image=4, boi_token_index=300, eoi_token_index=301, image_token_index=302,
    )  # fmt: skip
    return [
        Variant("gemma3-text", "gemma3", gemma3_text(), "gemma3"),
        Variant("gemma3-scaled", "gemma3", gemma3_text(rope_parameters=scaled, num_key_value_heads=2), "gemma3"),
        # The multimodal checkpoint of 4B and up; 27B's score scale, which only its number of layers tells in GGUF.
        Variant("gemma3-nested", "gemma3", nested, None),
        Variant("gemma3-scalar", "gemma3", gemma3_text(head_dim=128, query_pre_attn_scalar=168, num_hidden_layers=6), None),
    ]


def longrope(num_factors):
    return rope(
        "longrope",
        short_factor=[1.0 + 0.01 * i for i in range(num_factors)],
        long_factor=[1.0 + 0.2 * i for i in range(num_factors)],
    )


def phi3(name, rope_parameters, **fields):
    shapes = SHAPES | {"rms_norm_eps": 1e-5, "sliding_window": None, "rope_parameters": rope_parameters}
    return Variant(f"phi3-{name}", "phi3", transformers.Phi3Config(**shapes | fields), "phi3")


def phi3_variants():
    # Phi's head_dim is always hidden_size / heads: 96 and 128 as in the real ones.
    phi3_mini = {"hidden_size": 384, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4,
                 "original_max_position_embeddings": ORIGINAL}  # fmt: skip
    phi4_mini = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True, "sliding_window": 262144,
                 "original_max_position_embeddings": ORIGINAL}  # fmt: skip
    partial = longrope(48) | {"partial_rotary_factor": 0.75}
    return [
        phi3("mini-4k", rope(), **phi3_mini | {"sliding_window": WINDOW, "original_max_position_embeddings": CONTEXT}),
        phi3("mini-128k", longrope(48), **phi3_mini),
        phi3("4-mini", partial, **phi4_mini),
    ]


def smollm3_variants():
    config = transformers.SmolLM3Config(
        **SHAPES | {"num_hidden_layers": 5, "rope_parameters": rope() | {"rope_theta": 5000000.0}, "tie_word_embeddings": True}
    )
    return [Variant("smollm3", "smollm3", config, "smollm3")]


FAMILIES = [llama_variants, mistral_variants, qwen2_variants, qwen3_variants, gemma3_variants, phi3_variants, smollm3_variants]


def all_variants():
    return {variant.name: variant for family in FAMILIES for variant in family()}


def randomise(model, seed):
    """Weights under which nothing is hidden: scores spread by 2 or so, norms are not 1, biases not 0, logits spread by 3."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config.get_text_config()
    is_gemma = config.model_type == "gemma3_text"

    def normal(tensor, std):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    for name, tensor in model.named_parameters():
        fan_in = tensor.shape[-1]
        with torch.no_grad():
            if name.endswith("norm.weight") or "layernorm" in name:
                # Gemma's weights are added to 1.
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (-0.25 if is_gemma else 0.75))
                if name.endswith(("q_norm.weight", "k_norm.weight")):
                    tensor.add_(0.5)
            elif name.endswith(".bias"):
                normal(tensor, 0.5)
            elif "embed_tokens" in name:
                normal(tensor, 3 / math.sqrt(fan_in) if config.tie_word_embeddings else 1 / math.sqrt(fan_in) if is_gemma else 1)
            elif "lm_head" in name:
                normal(tensor, 3 / math.sqrt(fan_in))
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                normal(tensor, 1.25 / math.sqrt(fan_in))
            else:
                normal(tensor, (1.3 if "qkv_proj" in name else 1) / math.sqrt(fan_in))


def make_model(variant, seed=0):
    """The model in float32 on the CPU; its attention is transformers' plain one."""
    torch.manual_seed(seed)
    model_class = transformers.AutoModelForCausalLM
    if variant.config.model_type == "gemma3":
        model_class = transformers.AutoModelForImageTextToText
    model = model_class.from_config(variant.config, attn_implementation="eager", dtype=torch.float32).eval()
    randomise(model, seed)
    return model


def make_tokenizer():
    """Byte-level BPE with a token for each byte, some merges, and control tokens at the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [chr(ord("a") + i) for i in range(26)]
    merges = [(first, second) for first in letters for second in "ae"][: VOCAB - len(alphabet) - NUM_END_TOKENS]
    tokens = alphabet + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    fillers = [f"<filler {i}>" for i in range(VOCAB - len(tokens) - NUM_END_TOKENS)]
    tokenizer.add_special_tokens([*fillers, "<s>", "</s>"])
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def save_safetensors(model, folder, shard_bytes=None):
    """The folder as it is published: config.json, safetensors (in shards of at most so many bytes), tokenizer.json."""
    model.save_pretrained(folder, max_shard_size=shard_bytes or "1GB")
    make_tokenizer().save(str(folder / "tokenizer.json"))
    if shard_bytes:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1
