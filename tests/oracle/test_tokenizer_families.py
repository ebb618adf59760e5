"""Each family's pipeline over a small vocabulary, from every kind of file, against the tokenizers and sentencepiece libraries."""

import json
import random
import re

import pytest
import sentencepiece
import tokenizers
from text_samples import awkward_texts, mixed_texts, repository_texts
from tokenize_tool import ROOT, TokenizeTool, ToolError
from tokenizer_families import (
    MARKERS,
    SPACE,
    pieces_as_tokenizer,
    processor_of,
    train_byte_level,
    train_pieces,
    write_byte_level_gguf,
    write_folder,
    write_pieces_gguf,
)

GEMMA_SYMBOLS = ["<start_of_turn>", "<end_of_turn>", "<table>", "</h1>"]
BYTE_SPELLING = re.compile(r"<0x[0-9A-Fa-f]{2}>")
GEMMA_SPACES = ["\n" * n for n in range(2, 8)] + [SPACE * n for n in range(2, 8)]


def texts_with(specials, seed):
    texts = mixed_texts(7_000, specials, seed=seed) + repository_texts(ROOT, 2_500, seed=seed)
    texts += [text for text in awkward_texts(specials[:6]) if len(text) <= 5_000]
    assert len(texts) >= 10_000
    return texts


def expect_same(tool, expected, texts, **options):
    for text, ids, wanted in zip(texts, tool.encode_all(texts, **options), expected, strict=True):
        assert ids == wanted, f"text {text[:200]!r}"


def ids_of(reference, texts, add_special=False):
    return [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=add_special)]


def expect_same_text(tool, reference, texts):
    """Decoding, at once and token by token."""
    for encoding in reference.encode_batch(texts):
        wanted = reference.decode(encoding.ids, skip_special_tokens=True)
        assert tool.decode(encoding.ids, skip_special=True).decode() == wanted
        parts = tool.ask("stream", ids=encoding.ids, begins_text=True)["parts"]
        assert "".join(parts) == wanted


@pytest.fixture
def open_tool():
    tools = []

    def start(path):
        tools.append(TokenizeTool("--tokenizer", path))
        return tools[-1]

    yield start
    for tool in tools:
        tool.close()


@pytest.mark.parametrize("name", list(MARKERS))
def test_byte_level(name, tmp_path, open_tool):
    reference = train_byte_level(name, ROOT)
    texts = texts_with(list(MARKERS[name]), seed=len(name))
    expected = ids_of(reference, texts, add_special=True)
    folder = open_tool(write_folder(tmp_path / "hf", reference))
    expect_same(folder, expected, texts, add_special=True)
    write_byte_level_gguf(tmp_path / "model.gguf", reference, name)
    expect_same(open_tool(tmp_path / "model.gguf"), expected, texts, add_special=True)
    expect_same_text(folder, reference, texts[:1_500])


@pytest.fixture(scope="module")
def llama_pieces(tmp_path_factory):
    return train_pieces(ROOT, tmp_path_factory.mktemp("llama") / "tokenizer")


@pytest.fixture(scope="module")
def gemma_pieces(tmp_path_factory):
    symbols = GEMMA_SYMBOLS + GEMMA_SPACES
    return train_pieces(
        ROOT, tmp_path_factory.mktemp("gemma") / "tokenizer", add_dummy_prefix=False, user_defined_symbols=symbols
    )


@pytest.mark.parametrize("family", ["llama2", "mistral", "gemma", "phi3"])
def test_pieces_from_tokenizer_json(family, llama_pieces, gemma_pieces, tmp_path, open_tool):
    reference = pieces_as_tokenizer(gemma_pieces if family == "gemma" else llama_pieces, family)
    markers = {"gemma": GEMMA_SYMBOLS, "phi3": ["<|user|>", "<|end|>\n", "<|assistant|>"]}
    texts = texts_with(["<s>", "</s>", *markers.get(family, [])], seed=30)
    tool = open_tool(write_folder(tmp_path / "hf", reference))
    expect_same(tool, ids_of(reference, texts, add_special=True), texts, add_special=True)
    expect_same_text(tool, reference, texts[:1_500])


def in_stretches(processor, texts, specials):
    """SentencePiece knows no special tokens in text: each stretch between them is a text of its own."""
    ids = {text: processor.piece_to_id(text) for text in specials}
    expected = []
    for text in texts:
        out = []
        while text:
            begin, found = min(((text.find(s), s) for s in specials if s in text), default=(len(text), None))
            out += processor.encode(text[:begin]) + ([ids[found]] if found else [])
            text = text[begin + len(found) :] if found else ""
        expected.append(out)
    return expected


@pytest.mark.parametrize("source", ["gguf", "tokenizer.model"])
@pytest.mark.parametrize("family", ["llama2", "gemma"])
def test_pieces_from_sentencepiece(family, source, llama_pieces, gemma_pieces, tmp_path, open_tool):
    model = gemma_pieces if family == "gemma" else llama_pieces
    specials = ["<unk>", "<s>", "</s>"]
    # Markers that SentencePiece calls user-defined begin no new stretch there.
    texts = texts_with(specials, seed=40)
    path = tmp_path / "model.gguf" if source == "gguf" else tmp_path
    if source == "gguf":
        write_pieces_gguf(path, model)
    else:
        (path / "tokenizer.model").write_bytes(model.SerializeToString())
    tool = open_tool(path)
    processor = processor_of(model)
    expect_same(tool, in_stretches(processor, texts, specials), texts)
    # Markers among the user-defined pieces are not for messages to make; SentencePiece knows no such thing.
    plain = [text for text in texts if not any(symbol in text for symbol in GEMMA_SYMBOLS)]
    assert len(plain) >= 10_000
    expect_same(tool, processor.encode(plain), plain, parse_special=False)
    for text, ids in zip(texts[:1_500], processor.encode(texts[:1_500]), strict=True):
        assert tool.decode(ids).decode() == text.replace(SPACE, " ")
    assert tool.ask("encode", hex="61", add_special=True)["ids"] == [1, *processor.encode("a")]


def test_unknown_pieces(tmp_path, open_tool):
    """Without byte fallback a run of unknown characters is one unknown token."""
    model = train_pieces(ROOT, tmp_path / "tokenizer", byte_fallback=False)
    (tmp_path / "tokenizer.txt").unlink()
    texts = texts_with(["<s>"], seed=50)
    expected = processor_of(model).encode(texts)
    assert sum(0 in ids for ids in expected) > 1_000
    expect_same(open_tool(tmp_path), expected, texts, parse_special=False)


def expect_as_likely(tool, model, texts):
    """SentencePiece sums in 32 bits: of paths that are equally likely it may take another."""
    scores = [piece.score for piece in model.pieces]
    differing = 0
    for text, ids, wanted in zip(
        texts, tool.encode_all(texts, parse_special=False), processor_of(model).encode(texts), strict=True
    ):
        differing += ids != wanted
        assert sum(scores[id_] for id_ in ids) == pytest.approx(sum(scores[id_] for id_ in wanted), rel=1e-6), f"text {text[:200]!r}"
        assert tool.decode(ids) == tool.decode(wanted)
    assert differing < 0.05 * len(texts)


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_unigram(byte_fallback, tmp_path, open_tool):
    model = train_pieces(ROOT, tmp_path / "tokenizer", model_type="unigram", byte_fallback=byte_fallback)
    texts = texts_with(["<s>"], seed=60)
    expect_as_likely(open_tool(tmp_path), model, texts)

    vocab = [(piece.piece, piece.score) for piece in model.pieces]
    reference = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=0, byte_fallback=byte_fallback))
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    reference.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Metaspace(replacement=SPACE, prepend_scheme="always")]
    )
    specials = ["<unk>", "<s>", "</s>"]
    reference.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True) for text in specials])
    template = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    reference.post_processor = template
    folder = tmp_path / "hf"
    folder.mkdir()
    reference.save(str(folder / "tokenizer.json"))
    # tokenizers takes a byte's spelling in a text for the byte, sentencepiece (above) and we do not.
    plain = [text for text in texts if not BYTE_SPELLING.search(text)]
    assert len(plain) > 0.9 * len(texts)
    expect_same(open_tool(folder), ids_of(reference, plain, add_special=True), plain, add_special=True)


def test_normal_form(tmp_path, open_tool):
    """NFC where the file asks for it: every order of marks, Hangul, exclusions."""
    reference = train_byte_level("qwen2", ROOT)
    rng = random.Random(70)
    ranges = [(0x300, 0x345), (0x41, 0x7A), (0x1100, 0x11FF), (0x915, 0x94D), (0x1D15E, 0x1D172), (0xFB1D, 0xFB4E), (0x2126, 0x212B)]
    texts = ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 12))) for _ in range(10_000)]
    expect_same(open_tool(write_folder(tmp_path / "hf", reference)), ids_of(reference, texts), texts)


def test_added_tokens_take_white_space_along(llama_pieces, tmp_path, open_tool):
    reference = pieces_as_tokenizer(llama_pieces, "mistral")
    markers = [("[L]", True, False), ("[R]", False, True), ("[B]", True, True)]
    reference.add_tokens([tokenizers.AddedToken(t, lstrip=left, rstrip=right, normalized=False, special=True) for t, left, right in markers])
    texts = mixed_texts(10_000, [text for text, _, _ in markers], seed=80)
    texts += [f"a \u3000\n{one} \t{two}\u2003 b" for one, _, _ in markers for two, _, _ in markers]
    expect_same(open_tool(write_folder(tmp_path / "hf", reference)), ids_of(reference, texts), texts)


REFUSED = [
    ({"normalizer": {"type": "NFKC"}}, "'NFKC'"),
    ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}}, "Replace"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "'Whitespace'"),
    ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}, "normalizer": None}, "replacement"),
    ({"decoder": {"type": "WordPiece"}}, "'WordPiece'"),
    ({"decoder": {"type": "Fuse"}}, "U\\+2581"),
    ({"post_processor": {"type": "BertProcessing"}}, "'BertProcessing'"),
]


@pytest.mark.parametrize("change, message", REFUSED)
def test_unknown_steps_are_refused_by_name(change, message, llama_pieces, tmp_path):
    settings = json.loads(pieces_as_tokenizer(llama_pieces, "llama2").to_str()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(ToolError, match=message):
        TokenizeTool.refusal("--tokenizer", tmp_path)


def test_trained_normalisation_is_refused(tmp_path):
    train_pieces(ROOT, tmp_path / "tokenizer", normalization_rule_name="nfkc")
    with pytest.raises(ToolError, match="'nfkc'.*precompiled_charsmap"):
        TokenizeTool.refusal("--tokenizer", tmp_path)
    assert sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).vocab_size() > 0
