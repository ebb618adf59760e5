"""Vocabularies of published models: llama.cpp's GGUF files without weights, Mistral's tokenizer.model, Gemma's GGUF where it is there.

tools/setup.sh --with-tests fetches them into .cache/vocabularies and .cache/models.
"""

import pytest
import tokenizers
from gguf_vocabulary import read_vocabulary, special_tokens
from sentencepiece import sentencepiece_model_pb2
from test_tokenizer_families import expect_same, ids_of, in_stretches, open_tool, texts_with  # noqa: F401 (a fixture)
from tokenize_tool import ROOT
from tokenizer_families import SPACE, byte_level_pre_tokenizer, model_of_gguf, pieces_as_tokenizer, processor_of, write_folder

VOCABULARIES = ROOT / ".cache/vocabularies"
GEMMA = sorted((ROOT / ".cache/models").glob("gemma-3*.gguf"))
PIECES = ["llama-spm", "phi-3"]
BYTE_LEVEL = ["llama-bpe", "qwen2", "gpt-2", "refact", "starcoder"]
MISTRAL = ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"]


def published_cases(name):
    """Texts of llama.cpp with the ids that transformers gave."""
    texts = (VOCABULARIES / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (VOCABULARIES / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").splitlines()
    cases = [(text, [int(id_) for id_ in line.split()]) for text, line in zip(texts, lines, strict=False)]
    assert len(cases) > 30
    return cases


@pytest.mark.parametrize("name", PIECES + BYTE_LEVEL)
def test_published_cases(name, open_tool):  # noqa: F811
    tool = open_tool(VOCABULARIES / f"ggml-vocab-{name}.gguf")
    for text, ids in published_cases(name):
        assert tool.encode(text, parse_special=False) == ids, f"text {text!r}"


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "refact"])
def test_byte_level(name, open_tool):  # noqa: F811
    path = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    vocabulary = read_vocabulary(path)
    ids = {text: id_ for id_, text in enumerate(vocabulary["ggml.tokens"])}
    merges = [tuple(line.split(" ")) for line in vocabulary["ggml.merges"]]
    reference = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=merges, ignore_merges=name == "llama-bpe"))
    reference.pre_tokenizer = byte_level_pre_tokenizer(name)
    if name == "qwen2":
        reference.normalizer = tokenizers.normalizers.NFC()
    specials = [text for text in special_tokens(vocabulary).values() if not text.startswith("[PAD")]
    reference.add_tokens([tokenizers.AddedToken(text, normalized=False, special=True) for text in specials])
    texts = texts_with(specials[:8], seed=90)
    expect_same(open_tool(path), ids_of(reference, texts), texts)


@pytest.mark.parametrize("name", PIECES)
def test_pieces(name, open_tool):  # noqa: F811
    path = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    vocabulary = read_vocabulary(path)
    model = model_of_gguf(vocabulary)
    specials = [text for text in special_tokens(vocabulary).values() if not text.startswith("[PAD")] + ["<unk>"]
    texts = texts_with(specials, seed=91)
    tool = open_tool(path)
    processor = processor_of(model)
    expect_same(tool, in_stretches(processor, texts, specials), texts)


@pytest.mark.parametrize("name", MISTRAL)
def test_mistral(name, tmp_path, open_tool):  # noqa: F811
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((VOCABULARIES / name).read_bytes())
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    texts = texts_with([], seed=92)
    expect_same(open_tool(tmp_path), processor_of(model).encode(texts), texts, parse_special=False)
    reference = pieces_as_tokenizer(model, "mistral")
    expect_same(open_tool(write_folder(tmp_path / "hf", reference)), ids_of(reference, texts), texts)


@pytest.mark.skipif(not GEMMA, reason="no gemma-3*.gguf in .cache/models")
def test_gemma(open_tool):  # noqa: F811
    vocabulary = read_vocabulary(GEMMA[0])
    vocabulary["ggml.tokens"] = [text.replace(" ", SPACE) for text in vocabulary["ggml.tokens"]]
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    texts = texts_with([*specials, "<table>", "</h1>", "\n\n\n", "    "], seed=93)
    expect_same(open_tool(GEMMA[0]), in_stretches(processor_of(model_of_gguf(vocabulary)), texts, specials), texts)
