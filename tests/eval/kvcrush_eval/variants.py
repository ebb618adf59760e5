"""Names for cache settings, and named sets of them.

    full[:DTYPE]                      every token stays
    POLICY:BUDGET[:DTYPE]             a base policy as published: streaming, h2o, snapkv, tova, knorm, keydiff
    POLICY+crush:BUDGET[:DTYPE]       the same with the paper's KVCrush on top (share 0.25, mean anchor, first pick)
    paper:BUDGET[:DTYPE]              preset paper; the same as snapkv+crush
    default:BUDGET[:DTYPE]            preset default
    target:N                          target_compression N
    server                            nothing set: what the server does by itself
    NAME=[SHORT,]field=value,...      any field of KvCompression; `budget` and `share` are short for its longer names

BUDGET is a fraction where it has a point (0.25), else tokens (512). DTYPE is f32, bf16, f16, int8 or int4; left out it is
f16, the yardstick of all figures.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tomllib
from collections.abc import Iterable

from kvcrush_eval import EvalError

POLICIES = ("streaming", "h2o", "snapkv", "tova", "knorm", "keydiff")
BUDGETS = ("0.75", "0.5", "0.25", "0.125")
DTYPES = ("f16", "int8", "int4")
ALL_DTYPES = ("f32", "bf16", *DTYPES)
TARGETS = (2, 4, 8, 16)
_NAME = re.compile(r"[A-Za-z0-9._+:-]+")
Budget = int | float | None  # tokens, a fraction of the prompt, or all of it


@dataclasses.dataclass(frozen=True)
class Variant:
    name: str
    method: str        # the name without budget and dtype: one line of a plot
    budget: Budget
    dtype: str
    settings: dict     # field of KvCompression -> value; enumerators by their last words


def _budget(text: str) -> tuple[Budget, dict]:
    try:
        if "." in text:
            fraction = float(text)
            if 0 < fraction <= 1:
                return fraction, {"budget_fraction": fraction}
        elif int(text) > 0:
            return int(text), {"budget_tokens": int(text)}
    except ValueError:
        pass
    raise EvalError(f"budget is {text!r}, allowed: a fraction in (0, 1] written with a point, or a number of tokens")


def _dtype(text: str) -> str:
    if text not in ALL_DTYPES:
        raise EvalError(f"dtype is {text!r}, allowed: {', '.join(ALL_DTYPES)}")
    return text


def _method_settings(method: str) -> dict:
    policy, _, crush = method.partition("+")
    if method in ("paper", "default"):
        return {"preset": method}
    if policy in POLICIES and crush in ("", "crush"):
        return {"preset": "paper", "policy": policy, "representative_share": 0.25 if crush else 0.0}
    raise EvalError(f"method is {method!r}, allowed: full, server, target, paper, default, {', '.join(POLICIES)}, "
                    "the last six also with +crush")


def _parse_short(text: str) -> Variant:
    method, *rest = text.split(":")
    if method == "server" and not rest:
        return Variant(text, method, None, "server", {})
    if method == "target" and len(rest) == 1:
        if not rest[0].isdigit() or int(rest[0]) not in TARGETS:
            raise EvalError(f"target is {rest[0]!r}, allowed: {', '.join(map(str, TARGETS))}")
        return Variant(text, method, None, "server", {"target_compression": int(rest[0])})
    if method == "full" and len(rest) <= 1:
        dtype = _dtype(rest[0]) if rest else "f16"
        return Variant(text, method, None, dtype, {"policy": "off", "kv_dtype": dtype})
    settings = _method_settings(method)
    if len(rest) not in (1, 2):
        raise EvalError(f"variant {text!r} should read {method}:BUDGET or {method}:BUDGET:DTYPE")
    budget, budget_settings = _budget(rest[0])
    dtype = _dtype(rest[1]) if len(rest) == 2 else "f16"
    return Variant(text, method, budget, dtype, {**settings, **budget_settings, "kv_dtype": dtype})


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _parse_general(name: str, body: str) -> Variant:
    parts = [part.strip() for part in body.split(",")]
    settings: dict = {}
    if "=" not in parts[0]:
        settings.update(_parse_short(parts.pop(0)).settings)
    for part in parts:
        key, separator, text = part.partition("=")
        if not separator or not key or not text:
            raise EvalError(f"variant {name!r}: {part!r} should read field=value")
        if key == "budget":
            settings.pop("budget_tokens", None)
            settings.pop("budget_fraction", None)
            settings.update(_budget(text)[1])
        else:
            settings["representative_share" if key == "share" else key] = _value(text)
    budget = settings.get("budget_fraction", settings.get("budget_tokens"))
    return Variant(name, name, budget, str(settings.get("kv_dtype", "server")), settings)


def parse(text: str) -> Variant:
    """One variant from its text. EvalError says what is wrong with it."""
    name, separator, body = text.partition("=")
    if not _NAME.fullmatch(name):
        raise EvalError(f"variant name {name!r} may hold letters, digits and . _ + : -")
    return _parse_general(name, body) if separator else _parse_short(text)


def restore(name: str, settings: dict) -> Variant:
    """A variant as a results file names it."""
    try:
        short = _parse_short(name)
        if short.settings == settings:
            return short
    except EvalError:
        pass  # a name of the general form
    budget = settings.get("budget_fraction", settings.get("budget_tokens"))
    return Variant(name, name, budget, str(settings.get("kv_dtype", "server")), settings)


def _frontier() -> list[str]:
    # snapkv+crush is left out: `paper` is the same setting.
    crushed = [f"{policy}+crush" for policy in POLICIES if policy != "snapkv"]
    pruned = [f"{method}:{budget}{suffix}" for method in (*POLICIES, *crushed, "paper", "default")
              for budget in BUDGETS for suffix in ("", ":int8", ":int4")]
    return ["full", "full:int8", "full:int4", *(f"target:{n}" for n in TARGETS), *pruned]


_ESSENTIAL = ["full", "full:int8", "full:int4", *(f"target:{n}" for n in TARGETS)]
SETS: dict[str, list[str]] = {
    "frontier": _frontier(),
    "frontier16": [name for name in _frontier() if not name.endswith((":int8", ":int4"))],
    "headline": [*_ESSENTIAL, *(f"{method}:{budget}" for method in ("snapkv", "paper", "default") for budget in ("0.25", "0.125"))],
    "quick": ["full", "full:int4", "target:4", "target:8", "target:16", "streaming:0.25", "h2o:0.25", "snapkv:0.25",
              "snapkv:0.125", "paper:0.25", "default:0.25", "default:0.125"],
    "speed": ["full", "full:int8", "full:int4",
              *(f"{method}:{budget}{suffix}" for method, suffix in (("snapkv", ""), ("default", ""), ("default", ":int4"))
                for budget in BUDGETS)],
}


def _from_file(path: pathlib.Path) -> list[str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("variants")
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise EvalError(f"cannot read variants from {path}: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(body, str) for body in table.values()):
        raise EvalError(f"{path} should hold a table [variants] of lines NAME = \"SETTINGS\"")
    return [f"{name}={body}" for name, body in table.items()]


def resolve(words: Iterable[str]) -> list[Variant]:
    """Variants of sets, TOML files and single texts, in order, each once. EvalError: a name with two meanings."""
    texts: list[str] = []
    for word in words:
        texts += SETS[word] if word in SETS else _from_file(pathlib.Path(word)) if word.endswith(".toml") else [word]
    variants: dict[str, Variant] = {}
    for text in texts:
        variant = parse(text)
        if variants.setdefault(variant.name, variant) != variant:
            raise EvalError(f"variant {variant.name!r} is given twice with different settings")
    return list(variants.values())
