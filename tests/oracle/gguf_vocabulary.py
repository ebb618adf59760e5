"""The tokenizer's metadata of a GGUF file, and the tokenizers library's tokenizer made from it."""

import gguf
import tokenizers

CONTROL = 3
USER_DEFINED = 4


def _value(field):
    kind = field.types[-1]
    parts = [field.parts[index] for index in field.data]
    if kind == gguf.GGUFValueType.STRING:
        values = [bytes(part).decode() for part in parts]
    else:
        values = [part[0].item() for part in parts]
    return values if field.types[0] == gguf.GGUFValueType.ARRAY else values[0]


def read_vocabulary(path):
    fields = gguf.GGUFReader(path).fields
    return {
        name.removeprefix("tokenizer."): _value(field)
        for name, field in fields.items()
        if name.startswith("tokenizer.")
    }


def special_tokens(vocabulary):
    """Text of each token that stands for itself, by id."""
    kinds = vocabulary["ggml.token_type"]
    return {
        id_: text
        for id_, text in enumerate(vocabulary["ggml.tokens"])
        if kinds[id_] in (CONTROL, USER_DEFINED)
    }


def build_pre_tokenizer(name):
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    if name == "gpt-2":
        return byte_level(add_prefix_space=False)
    if name == "smollm":
        digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
        return tokenizers.pre_tokenizers.Sequence([digits, byte_level(add_prefix_space=False)])
    numbers = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}[name]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + numbers
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
    return tokenizers.pre_tokenizers.Sequence(
        [split, byte_level(add_prefix_space=False, use_regex=False)]
    )


def build_tokenizer(vocabulary, pre_tokenizer="smollm"):
    """`pre_tokenizer`: a GGUF name; the vocabulary need not have been made with it."""
    specials = special_tokens(vocabulary)
    ids = {text: id_ for id_, text in enumerate(vocabulary["ggml.tokens"])}
    merges = [tuple(line.split(" ")) for line in vocabulary["ggml.merges"]]
    model = tokenizers.models.BPE(
        vocab=ids, merges=merges, ignore_merges=pre_tokenizer == "llama-bpe"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = build_pre_tokenizer(pre_tokenizer)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True) for text in specials.values()])
    return tokenizer
