"""Small tokenizers with the exact pipeline of each family's tokenizer.json, trained here, and the same vocabulary as GGUF and
as tokenizer.model."""

import json

import gguf
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from text_samples import mixed_texts, repository_texts
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPACE = "\u2581"
VOCAB_SIZE = 3_000
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
CAPITALS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
SMALL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
OTHERS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
CASED = [
    rf"[^\r\n\p{{L}}\p{{N}}]?{CAPITALS}*{SMALL}+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{CAPITALS}+{SMALL}*",
]
REGEXES = {
    "llama-bpe": "|".join([ENDING, WORDS, r"\p{N}{1,3}", OTHERS, SPACES]),
    "qwen2": "|".join([ENDING, WORDS, r"\p{N}", OTHERS, SPACES]),
    "tekken": "|".join([*CASED, r"\p{N}", OTHERS_AND_SLASH, SPACES]),
    "gpt-4o": "|".join([*(part + ENDING + "?" for part in CASED), r"\p{N}{1,3}", OTHERS_AND_SLASH, SPACES]),
}  # fmt: skip
# Markers by family, and which of them are special.
MARKERS = {
    "llama-bpe": {"<|begin_of_text|>": True, "<|end_of_text|>": True, "<|eot_id|>": True, "<|start_header_id|>": True},
    "qwen2": {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<tool_call>": False, "<think>": False},
    "smollm": {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True},
    "tekken": {"<unk>": True, "<s>": True, "</s>": True, "[INST]": True, "[/INST]": True},
    "gpt-4o": {"<|endoftext|>": True, "<|end|>": True, "<|user|>": True, "<|tool|>": False},
}  # fmt: skip


def training_texts(root):
    return repository_texts(root, 3_000, seed=20) + mixed_texts(1_500, [], seed=21)


def byte_level_pre_tokenizer(name):
    """`name`: GGUF's."""
    if name == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in ("smollm", "refact", "starcoder"):
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    # Phi-4's file keeps what matches, the others isolate it.
    how = {"behavior": "removed", "invert": True} if name == "gpt-4o" else {"behavior": "isolated"}
    split = pre_tokenizers.Split(tokenizers.Regex(REGEXES[name]), **how)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_byte_level(name, root):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level_pre_tokenizer(name)
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training_texts(root), trainer)
    settings = json.loads(tokenizer.to_str())
    settings["model"]["ignore_merges"] = name in ("llama-bpe", "tekken")
    if settings["model"]["ignore_merges"]:
        # Words that no merges lead to, as Llama 3 has them.
        merges = settings["model"]["merges"]
        settings["model"]["merges"] = [merge for i, merge in enumerate(merges) if i % 5 or i < 1_000]
        settings = drop_dead_merges(settings)
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(settings))
    tokenizer.decoder = decoders.ByteLevel()
    for text, special in MARKERS[name].items():
        tokenizer.add_tokens([tokenizers.AddedToken(text, normalized=False, special=special)])
    if name in ("llama-bpe", "tekken"):
        bos = next(text for text in MARKERS[name] if text in ("<s>", "<|begin_of_text|>"))
        template = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def drop_dead_merges(settings):
    """Merges of tokens that no merge makes any more may stay: they are in the vocabulary."""
    vocab = settings["model"]["vocab"]
    settings["model"]["merges"] = [merge for merge in settings["model"]["merges"] if "".join(merge) in vocab]
    return settings


def train_pieces(root, path, **options):
    """`path`.model is what SentencePiece makes. Returns it parsed."""
    corpus = path.with_suffix(".txt")
    lines = [line for text in training_texts(root) for line in text.splitlines() if line.strip()]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    defaults = {
        "model_type": "bpe", "vocab_size": VOCAB_SIZE, "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "split_digits": True, "allow_whitespace_only_pieces": True,
        "character_coverage": 0.98, "minloglevel": 2, "num_threads": 2,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(path), **(defaults | options))
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.with_suffix(".model").read_bytes())
    return model


def processor_of(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def model_of_gguf(vocabulary):
    """What SentencePiece would have written: `vocabulary` as read_vocabulary returns it."""
    model = sentencepiece_model_pb2.ModelProto()
    rows = zip(vocabulary["ggml.tokens"], vocabulary["ggml.scores"], vocabulary["ggml.token_type"], strict=True)
    for id_, (text, score, kind) in enumerate(rows):
        # It wants exactly one unknown token; files mark empty places so too.
        kind = 2 if id_ == vocabulary["ggml.unknown_token_id"] else 3 if kind == 2 else kind
        model.pieces.add(piece=text, score=score, type=kind)
    prefix = vocabulary.get("ggml.add_space_prefix", True)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    return model


def merges_of(model):
    """Pairs of pieces that make a third, as transformers lists them for a tokenizer.json."""
    ids = {piece.piece: id_ for id_, piece in enumerate(model.pieces) if piece.type in (1, 4)}
    merges = []
    for text in ids:
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        pairs = sorted((pair for pair in pairs if pair[0] in ids and pair[1] in ids), key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += [(model.pieces[ids[text]].score, pair) for pair in pairs]
    return [pair for _, pair in sorted(merges, key=lambda merge: -merge[0])]


PIECE_DECODER = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
STRIP = decoders.Strip(content=" ", left=1, right=0)


def pieces_as_tokenizer(model, family):
    """The tokenizer.json of a SentencePiece BPE model, in the way of `family`: llama2, mistral, gemma or phi3."""
    vocab = {piece.piece: id_ for id_, piece in enumerate(model.pieces)}
    bpe = models.BPE(vocab=vocab, merges=merges_of(model), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    if family in ("llama2", "phi3"):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    elif family == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    strips = [] if family == "gemma" else [STRIP]
    tokenizer.decoder = decoders.Sequence([*PIECE_DECODER, *strips])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True) for text in ("<unk>", "<s>", "</s>")])
    own = [piece.piece for piece in model.pieces if piece.type == 4]
    turns = ("<start_of_turn>", "<end_of_turn>")
    tokenizer.add_tokens([tokenizers.AddedToken(text, normalized=False, special=text in turns) for text in own])
    if family == "phi3":
        markers = ("<|user|>", "<|end|>", "<|assistant|>")
        tokenizer.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True, rstrip=True) for text in markers])
    return tokenizer


def write_gguf(path, tokens, kinds, model, **fields):
    """`fields`: tokenizer keys without their prefix, as the gguf package names its add_ functions' values."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    if "merges" in fields:
        writer.add_token_merges(fields["merges"])
    if "pre" in fields:
        writer.add_tokenizer_pre(fields["pre"])
    for name in ("bos", "eos", "unk"):
        if name in fields:
            getattr(writer, f"add_{name}_token_id")(fields[name])
    if "add_space_prefix" in fields:
        writer.add_add_space_prefix(fields["add_space_prefix"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_pieces_gguf(path, model):
    pieces = model.pieces
    write_gguf(
        path, [piece.piece for piece in pieces], [piece.type for piece in pieces], "llama", bos=1, eos=2, unk=0,
        scores=[piece.score for piece in pieces], add_space_prefix=model.normalizer_spec.add_dummy_prefix,
    )  # fmt: skip


def write_byte_level_gguf(path, tokenizer, name):
    settings = json.loads(tokenizer.to_str())
    added = {token["id"]: token for token in settings["added_tokens"]}
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    tokens = [tokenizer.id_to_token(id_) for id_ in range(size)]
    kinds = [(3 if added[id_]["special"] else 4) if id_ in added else 1 for id_ in range(size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in settings["model"]["merges"]]
    bos = [id_ for id_, token in added.items() if token["content"] in ("<s>", "<|begin_of_text|>")]
    write_gguf(path, tokens, kinds, "gpt2", merges=merges, pre=name, **({"bos": bos[0]} if bos else {}))


def write_folder(path, tokenizer):
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    tokens = [token["content"] for token in json.loads(tokenizer.to_str())["added_tokens"]]
    bos = [text for text in tokens if text in ("<s>", "<|begin_of_text|>")]
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos[0] if bos else None}))
    return path
