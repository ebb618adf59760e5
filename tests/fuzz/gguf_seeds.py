"""Small GGUF files, whole and damaged, and what the other seeds have in common with them."""

import struct

LAYER_SHAPES = {
    "attn_norm": [8], "attn_q": [8, 8], "attn_k": [4, 8], "attn_v": [4, 8], "attn_output": [8, 8],
    "ffn_norm": [8], "ffn_gate": [12, 8], "ffn_up": [12, 8], "ffn_down": [8, 12],
}
TOKENS = ["a", "b", "ab", "<|endoftext|>", "<|im_end|>", "<tool>"]
CHAT = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}")


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def array(kind, items):
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def value_of(value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value[0], str):
        return array(8, [text(item) for item in value])
    if isinstance(value[0], float):
        return array(6, [struct.pack("<f", item) for item in value])
    return array(5, [struct.pack("<i", item) for item in value])


def gguf(metadata, tensors, version=3, alignment=32):
    """`tensors`: name, shape outermost first, ggml type, bytes."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += text(key) + value_of(value)
    data = b""
    for name, shape, kind, content in tensors:
        data += bytes(-len(data) % alignment)
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += content
    return head + bytes(-len(head) % alignment) + data


def size_of(shape):
    size = 1
    for dimension in shape:
        size *= dimension
    return size


def model_metadata(**changes):
    metadata = {
        "general.architecture": "llama", "general.name": "Small", "llama.block_count": 1, "llama.context_length": 128,
        "llama.embedding_length": 8, "llama.feed_forward_length": 12, "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [1, 1, 1, 3, 3, 4], "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 4, "tokenizer.chat_template": CHAT,
    }
    for key, value in changes.items():
        metadata[key.replace("__", ".")] = value
    return metadata


def model_tensors(tied=True):
    shapes = {"token_embd": [6, 8], "output_norm": [8]}
    if not tied:
        shapes["output"] = [6, 8]
    shapes |= {f"blk.0.{name}": shape for name, shape in LAYER_SHAPES.items()}
    return [(name + ".weight", shape, 0, bytes(4 * size_of(shape))) for name, shape in shapes.items()]


def split_keys(part, count):
    return {"split.no": struct.pack("<IH", 2, part), "split.count": struct.pack("<IH", 2, count),
            "split.tensors.count": struct.pack("<Ii", 5, len(model_tensors()))}


def gguf_seeds():
    yield "model", gguf(model_metadata(), model_tensors())
    yield "untied-yarn", gguf(model_metadata(**{
        "llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 4.0, "llama__rope__freq_base": 1e6,
        "llama__rope__scaling__original_context_length": 64, "llama__rope__scaling__attn_factor": 1.5,
        "tokenizer__ggml__bos_token_id": 3, "tokenizer__ggml__add_bos_token": True}), model_tensors(False), version=2)
    pieces = model_metadata(**{
        "tokenizer__ggml__model": "llama", "tokenizer__ggml__tokens": ["<unk>", "<s>", "\u2581", "a", "\u2581a", "\u2581\u2581"],
        "tokenizer__ggml__token_type": [2, 3, 1, 1, 1, 4], "tokenizer__ggml__scores": [0.0, 0.0, -3.0, -2.0, -1.0, 0.0],
        "tokenizer__ggml__bos_token_id": 1, "tokenizer__ggml__add_eos_token": True})
    yield "pieces", gguf(pieces, model_tensors())
    yield "pieces-unigram", gguf(pieces | {"tokenizer.ggml.model": "t5", "tokenizer.ggml.add_space_prefix": False}, model_tensors())
    yield "pieces-few-scores", gguf(pieces | {"tokenizer.ggml.scores": [0.0]}, model_tensors())
    divisors = ("rope_freqs.weight", [2], 0, struct.pack("<ff", 1, 8))
    biases = [(f"blk.0.attn_{name}.bias", [rows], 0, bytes(4 * rows)) for name, rows in (("q", 8), ("k", 4), ("v", 4))]
    yield "divisors-biases", gguf(model_metadata(), [divisors, *model_tensors(), *biases])
    blocks = [("f16", 1, 64), ("q4_0", 2, 18), ("q4_1", 3, 20), ("q8_0", 8, 34), ("bf16", 30, 64)]
    yield "dtypes", gguf({"general.alignment": 8}, [(name, [1, 32], kind, bytes(size)) for name, kind, size in blocks], alignment=8)
    numbers = {f"type{kind}": struct.pack("<I" + code, kind, 1) for kind, code in enumerate("BbHhIifB")}
    numbers |= {"u64": struct.pack("<IQ", 10, 1 << 40), "i64": struct.pack("<Iq", 11, -1), "f64": struct.pack("<Id", 12, 0.5)}
    nested = array(9, [array(9, [array(0, [b"x"])[4:]])[4:]])
    yield "types", gguf(numbers | {"nested": nested, "floats": array(6, [bytes(4)] * 3), "flags": array(7, [b"\x01"])}, [])
    yield "huge-count", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1)
    yield "huge-array", gguf({"tokenizer.ggml.tokens": struct.pack("<IIQ", 9, 8, 1 << 24)}, [])
    yield "overlap", gguf({}, [("a", [4], 0, bytes(16))]).replace(struct.pack("<IQ", 0, 0), struct.pack("<IQ", 0, 1 << 63))
    yield "truncated", gguf(model_metadata(), model_tensors())[:-100]
    split = [gguf((model_metadata() if part == 0 else {}) | split_keys(part, 2), tensors)
             for part, tensors in enumerate((model_tensors()[:5], model_tensors()[5:]))]
    yield "split", b"#PART".join(split)
    yield "split-twice", b"#PART".join([split[0], split[0]])
    yield "many-stops", gguf(model_metadata(**{
        "tokenizer__ggml__tokens": ["<|im_end|>"] * 100, "tokenizer__ggml__token_type": [3] * 100}), model_tensors())
