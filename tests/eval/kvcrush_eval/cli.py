"""Command line: run, summary, plot, all, variants."""

from __future__ import annotations

import argparse
import pathlib
import sys

from kvcrush_eval import EvalError, store, variants
from kvcrush_eval.data import DataFolder
from kvcrush_eval.tasks import TASKS, Options, make_jobs

_DEFAULTS = Options()


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _tasks(text: str) -> list[str]:
    names = _names(text)
    if unknown := [name for name in names if name not in TASKS]:
        raise argparse.ArgumentTypeError(f"no task {unknown[0]!r}; there are: {', '.join(TASKS)}")
    return names


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", default="127.0.0.1:50051", metavar="HOST:PORT", help="a running kvcrush-server (default: %(default)s)")
    add("--data", type=pathlib.Path, required=True, metavar="DIR", help="folder with longbench/, needle/ and ppl/")
    add("--tasks", type=_tasks, default=["probe", "needle", "longbench"], metavar="A,B",
        help=f"of {','.join(TASKS)} (default: probe,needle,longbench)")
    add("--datasets", type=_names, default=[], metavar="A,B", help="only these, e.g. qasper,trec,niah_1000 (default: all)")
    add("--variants", nargs="+", default=["quick"], metavar="V",
        help=f"sets ({', '.join(variants.SETS)}), TOML files, or single ones; see `variants --help` (default: quick)")
    add("--max-prompt-tokens", type=_positive, default=_DEFAULTS.max_prompt_tokens, metavar="N",
        help="leave longer samples out (default: %(default)s)")
    add("--limit", type=_positive, metavar="N", help="at most N samples per dataset, spread over it (default: all)")
    add("--parallel", type=_positive, default=1, metavar="N", help="requests in flight (default: %(default)s)")
    add("--variants-per-request", type=_positive, default=64, metavar="N", help="at most 256 (default: %(default)s)")
    add("--timeout-s", type=float, default=3600, metavar="S", help="of one request (default: %(default)g)")
    add("--kv-keys", type=_positive, default=_DEFAULTS.kv_keys, metavar="N",
        help="pairs in a kv_retrieval prompt; all 75 are some 5300 tokens (default: %(default)s)")
    add("--ppl-prompt-tokens", type=_positive, default=_DEFAULTS.ppl_prompt_tokens, metavar="N", help="(default: %(default)s)")
    add("--ppl-tokens", type=_positive, default=_DEFAULTS.ppl_tokens, metavar="N", help="scored per window (default: %(default)s)")
    add("--ppl-windows", type=_positive, default=_DEFAULTS.ppl_windows, metavar="N", help="per text (default: %(default)s)")
    add("--own-tokens", type=_positive, default=_DEFAULTS.own_tokens, metavar="N",
        help="of the full cache's own text (default: %(default)s)")
    add("--probe-tokens", type=_positive, default=_DEFAULTS.probe_tokens, metavar="N", help="of the gold answer (default: %(default)s)")


def _run(args: argparse.Namespace) -> int:
    from kvcrush_eval import runner, server  # only here: they need gRPC

    chosen = variants.resolve(args.variants)
    options = Options(args.max_prompt_tokens, args.limit, frozenset(args.datasets) or None, args.kv_keys, args.ppl_prompt_tokens,
                      args.ppl_tokens, args.ppl_windows, args.probe_tokens, args.own_tokens)
    folder = DataFolder(args.data)
    for variant in chosen:
        server.to_proto(variant)  # what is wrong with one shows now, not after hours
    connection = server.Server(args.server, args.timeout_s)
    try:
        jobs = make_jobs(args.tasks, folder, options, connection.tokenize)
        info = connection.info
        meta = {"model": info.model_name, "weights": info.weight_dtype, "device": info.device, "server_kv_dtype": info.kv_dtype}
        results = store.Store(args.out, meta, {v.name: v.settings for v in chosen})
        print(f"{len(jobs)} samples x {len(chosen)} variants on {args.server} ({info.model_name}) -> {args.out}", file=sys.stderr)
        try:
            failures = runner.run(connection, results, jobs, chosen, parallel=args.parallel,
                                  variants_per_request=min(args.variants_per_request, 256))
        finally:
            results.close()
    finally:
        connection.close()
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _load(args: argparse.Namespace):
    from kvcrush_eval import summary

    meta, records = store.read(args.out)
    return meta, summary.Results(records)


def _summary(args: argparse.Namespace) -> int:
    from kvcrush_eval import summary, tables

    meta, results = _load(args)
    if args.compare:
        print(tables.comparison(summary.compare(results, *args.compare)), end="")
        return 0
    figures = summary.summarise(results)
    text = tables.markdown(figures, meta)
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    args.out.with_suffix(".json").write_text(tables.as_json(figures, meta), encoding="utf-8")
    print(text, end="")
    return 0


def _plot(args: argparse.Namespace) -> int:
    from kvcrush_eval import plots, summary

    for path in plots.draw(summary.summarise(_load(args)[1]), args.plots or args.out.with_suffix("")):
        print(path)
    return 0


def _all(args: argparse.Namespace) -> int:
    code = _run(args)
    args.compare = None
    return max(code, _summary(args), _plot(args))


def _variants(args: argparse.Namespace) -> int:
    for variant in variants.resolve(args.names):
        print(f"{variant.name:24} {' '.join(f'{name}={value}' for name, value in variant.settings.items())}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py", description="Measures KV compression on a running kvcrush-server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str, **options) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=options.pop("description", text), **options)
        added.set_defaults(function=function)
        if function is not _variants:
            added.add_argument("--out", type=pathlib.Path, default=pathlib.Path(".cache/eval/results.jsonl"), metavar="FILE.jsonl",
                               help="results file (default: %(default)s)")
        return added

    _add_run_options(command("run", _run, "Measure what FILE.jsonl lacks; run again to go on after a stop"))
    command("summary", _summary, "Tables of FILE.jsonl, also as FILE.md and FILE.json").add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="instead: paired figures of two variants")
    everything = command("all", _all, "run, summary and plot")
    _add_run_options(everything)
    for added in (command("plot", _plot, "Pictures of FILE.jsonl"), everything):
        added.add_argument("--plots", type=pathlib.Path, metavar="DIR", help="folder for PNG files (default: FILE/)")
    command("variants", _variants, "List what sets and names mean", description=variants.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter).add_argument(
        "names", nargs="+", metavar="NAME", help=f"sets ({', '.join(variants.SETS)}), TOML files or single variants")
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        return args.function(args)
    except EvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
