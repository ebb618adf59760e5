"""Texts that tokenizers get wrong, generated the same way on every run."""

import pathlib
import random
import unicodedata

# Alphabets by script, and marks that combine with what stands before.
RANGES = [
    (0x20, 0x7E), (0xA1, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x587),
    (0x591, 0x5F4), (0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF), (0xE01, 0xE5B), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1FFF), (0x2000, 0x206F),
    (0x2070, 0x209C), (0x20A0, 0x20BF), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x24FF),
    (0x2500, 0x27BF), (0x3000, 0x30FF), (0x3130, 0x318E), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF), (0xF900, 0xFAD9), (0xFB00, 0xFDFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF),
    (0x10000, 0x100FA), (0x10330, 0x1034A), (0x10A00, 0x10A58), (0x12000, 0x12399), (0x1D400, 0x1D7FF),
    (0x1F100, 0x1F1FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0001, 0xE007F), (0xF0000, 0xF00FF),
    (0x100000, 0x1000FF),
]  # fmt: skip
SPACES = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
EMOJI = ["👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "1️⃣", "❤️‍🔥", "🧑🏿‍🚀", "☺", "☺️"]
SNIPPETS = [
    "don't", "I'LL", "we've", "'s", "''s", "it's 1's", "x'd", "he'd've", "DON'T", "Zoë", "naïve", "1234567", "3.14", "0x1F",
    "１２３", "٣٤", "Ⅷ", "½", "x²", "e.g.", "C++", "a_b", "http://a.b/c?d=e&f", "#!/bin/sh", "...", "---", "\u0301", "A\u030a",
]  # fmt: skip
WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you"
    " were all her she there would their we him been has when who will no more if out so up said what its about than into"
).split()


def _assigned(code):
    return unicodedata.category(chr(code)) not in ("Cn", "Cs")


def random_character(rng):
    while True:
        if rng.random() < 0.9:
            code = rng.randint(*rng.choice(RANGES))
        else:
            code = rng.randint(0, 0x10FFFF)
        # The libraries know different versions of Unicode; what this Python's (14.0) has is common to all.
        if _assigned(code):
            return chr(code)


def _piece(rng, specials):
    kind = rng.randrange(10)
    if kind == 0:
        return "".join(random_character(rng) for _ in range(rng.randint(1, 12)))
    if kind == 1:
        low, high = rng.choice(RANGES)
        codes = [rng.randint(low, high) for _ in range(rng.randint(1, 15))]
        return "".join(chr(code) for code in codes if _assigned(code))
    if kind == 2:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 5)))
    if kind == 3:
        return rng.choice([" ", "\n", "\r\n", "\t", " \n"]) * rng.randint(1, 9)
    if kind == 4:
        return rng.choice(EMOJI)
    if kind == 5:
        return rng.choice(SNIPPETS)
    if kind == 6:
        return str(rng.randrange(10 ** rng.randint(1, 20)))
    if kind == 7 and specials:
        text = rng.choice(specials)
        return text if rng.random() < 0.7 else text[: rng.randint(1, len(text))]
    return "".join(rng.choice(["", " ", " ", "  "]) + rng.choice(WORDS) for _ in range(rng.randint(1, 6)))


def mixed_texts(count, specials, seed=1):
    rng = random.Random(seed)
    return ["".join(_piece(rng, specials) for _ in range(rng.randint(1, 6))) for _ in range(count)]


def repository_texts(root, count, seed=2):
    """Stretches of the repository's own code and prose, cut anywhere."""
    rng = random.Random(seed)
    root = pathlib.Path(root)
    paths = sorted(
        path
        for folder in ("engine", "server", "client", "proto", "cmake", "tests", "tools", "docs")
        for path in (root / folder).rglob("*")
        if path.suffix in (".h", ".cpp", ".py", ".md", ".proto", ".cmake", ".txt", ".sh")
    )
    texts = [path.read_text(encoding="utf-8") for path in paths]
    texts = [text for text in texts if text]
    chosen = []
    for _ in range(count):
        text = rng.choice(texts)
        begin = rng.randrange(len(text))
        chosen.append(text[begin : begin + rng.randint(1, 400)])
    return chosen


def awkward_texts(specials):
    texts = ["", " ", "\n", "\0", "a", "\u00e9", "e\u0301", "\U0010ffff", "\ufffd", "\ufeffa"]
    texts += ["a" * 20_000, "ab" * 10_000, "é" * 5_000, "中" * 5_000, " " * 20_000, "\n" * 5_000, "\r\n" * 5_000]
    texts += ["9" * 5_000, "!" * 5_000, "supercalifragilistic" * 500, "👍🏽" * 2_000, "\u0301" * 2_000, "a " * 5_000]
    texts += [" " * n + "x" for n in range(1, 20)] + [" " * n + "7" for n in range(1, 20)]
    texts += [f"{a}{b}" for a in specials for b in specials]
    texts += [f" {a} {a}\n{a[:-1]}{a}" for a in specials]
    texts += [chr(code) for code in range(0x250)] + [f"a{chr(code)}b" for code in range(0x250)]
    return texts
