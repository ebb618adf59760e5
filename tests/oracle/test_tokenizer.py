"""The C++ tokenizer against the tokenizers library, built from the same GGUF vocabulary."""

import json
import random

import pytest
from gguf_vocabulary import build_tokenizer, read_vocabulary, special_tokens
from text_samples import awkward_texts, mixed_texts, repository_texts
from tokenize_tool import MODEL, ROOT, TokenizeTool, ToolError


@pytest.fixture(scope="module")
def vocabulary():
    return read_vocabulary(MODEL)


@pytest.fixture(scope="module")
def specials(vocabulary):
    return list(special_tokens(vocabulary).values())


@pytest.fixture(scope="module")
def reference(vocabulary):
    assert vocabulary["ggml.pre"] == "smollm"
    return build_tokenizer(vocabulary)


@pytest.fixture(scope="module")
def tool():
    tool = TokenizeTool("--model", MODEL)
    yield tool
    tool.close()


@pytest.fixture(scope="module")
def byte_of_code_point():
    """GPT-2's alphabet, inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def expect_same_ids(tool, reference, texts):
    for text in texts:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert tool.encode(text) == expected, f"text {text[:200]!r}"


@pytest.mark.parametrize("part", range(5))
def test_mixed_texts(tool, reference, specials, part):
    expect_same_ids(tool, reference, mixed_texts(2_000, specials, seed=10 + part))


def test_repository_texts(tool, reference):
    expect_same_ids(tool, reference, repository_texts(ROOT, 2_000))


def test_awkward_texts(tool, reference, specials):
    expect_same_ids(tool, reference, awkward_texts(specials))


def test_round_trip(tool, vocabulary, specials, byte_of_code_point):
    """Decoding gives the text back, but for bytes that the vocabulary has no token for."""
    known = {byte_of_code_point[text] for text in vocabulary["ggml.tokens"] if text in byte_of_code_point}
    assert len(known) > 200
    texts = mixed_texts(1_000, specials, seed=3) + repository_texts(ROOT, 500, seed=4) + awkward_texts(specials)
    whole = 0
    for text in texts:
        data = text.encode()
        expected = bytes(byte for byte in data if byte in known)
        whole += expected == data
        assert tool.decode(tool.encode(text)) == expected, f"text {text[:200]!r}"
    assert whole > 0.7 * len(texts)


def test_decode_every_token(tool, reference, vocabulary, byte_of_code_point):
    specials = special_tokens(vocabulary)
    for id_, text in enumerate(vocabulary["ggml.tokens"]):
        expected = text.encode() if id_ in specials else bytes(byte_of_code_point[c] for c in text)
        assert tool.decode([id_]) == expected
        assert tool.decode([id_], skip_special=True) == (b"" if id_ in specials else expected)


def test_special_tokens_as_plain_text(tool, reference, vocabulary, specials):
    """What a message spells must not become a special token; its bytes are tokenised like any others."""
    special_ids = set(special_tokens(vocabulary))
    plain = build_tokenizer({**vocabulary, "ggml.token_type": [1] * len(vocabulary["ggml.tokens"])})
    for text in mixed_texts(500, specials, seed=5):
        ids = tool.encode(text, parse_special=False)
        assert ids == plain.encode(text, add_special_tokens=False).ids, f"text {text[:200]!r}"
        assert not special_ids & set(ids)


def test_pieces_are_one_text(tool, reference, specials):
    """Pieces without special tokens in messages are tokenised as the joined text, wherever they are cut."""
    rng = random.Random(6)
    for text in mixed_texts(500, [], seed=6):
        cuts = sorted(rng.randint(0, len(text)) for _ in range(4))
        bounds = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
        pieces = [{"text": text[a:b], "from_message": rng.random() < 0.5} for a, b in bounds]
        prompt = [{"text": specials[0], "from_message": False}, *pieces, {"text": specials[1], "from_message": False}]
        expected = reference.encode(specials[0] + text + specials[1], add_special_tokens=False).ids
        assert tool.ask("encode_pieces", pieces=prompt)["ids"] == expected, f"text {text[:200]!r}"


BROKEN = [b"\x80", b"\xc0\xaf", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xff", b"\xf8\x88"]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("before", ["", "abc", "äöü€", "x" * 1_000 + "😀"])
@pytest.mark.parametrize("after", [b"", b"tail"])
def test_broken_utf8_is_refused_with_its_offset(tool, broken, before, after):
    data = before.encode() + broken + after
    with pytest.raises(UnicodeDecodeError) as error:
        data.decode()
    with pytest.raises(ToolError, match=rf"not valid UTF-8 at byte {error.value.start}$"):
        tool.encode(data)


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_other_pre_tokenizers(vocabulary, specials, name, tmp_path):
    """Word borders of other families, seen through the same vocabulary."""
    kinds = {1: "normal", 2: "unknown", 3: "control", 4: "user", 5: "unused", 6: "byte"}
    spec = {
        "model": "gpt2",
        "pre_tokenizer": name,
        "tokens": vocabulary["ggml.tokens"],
        "kinds": [kinds[kind] for kind in vocabulary["ggml.token_type"]],
        "merges": vocabulary["ggml.merges"],
        "whole_words_first": name == "llama-bpe",
    }
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    tool = TokenizeTool("--spec", path)
    reference = build_tokenizer(vocabulary, name)
    expect_same_ids(tool, reference, mixed_texts(2_000, specials, seed=7) + awkward_texts(specials)[:40])
    expect_same_ids(tool, reference, repository_texts(ROOT, 500, seed=8))
    tool.close()
