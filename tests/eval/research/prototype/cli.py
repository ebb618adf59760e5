"""Command line: prepare prompts, measure, print tables. Every command can be stopped and goes on where it was."""

import argparse
import pathlib
import time

import torch

from . import model as llama
from . import observe, probe, prompts, quantise, report, select
from .scores import Observed
from .variants import GROUPS

QUANTISE_SETS = ("small", "more")
SELECT_SETS = ("dev", "held")


class Progress:
    """One line per prompt, with an estimate of what is left."""

    def __init__(self, total):
        self._total, self._done, self._start = total, 0, time.monotonic()

    def step(self, what):
        self._done += 1
        spent = time.monotonic() - self._start
        left = spent / self._done * (self._total - self._done)
        print(f"{self._done}/{self._total} {what}  {spent:.0f} s, about {left:.0f} s left", flush=True)


def prompt_paths(args, sets):
    """Prepared prompts of `sets`, in their order, at most args.limit of each."""
    paths = []
    for name in sets:
        found = sorted((args.cache / "prompts").glob(f"{name}_*.pt"))[: args.limit]
        if not found:
            raise SystemExit(f"no prepared prompts of set {name} under {args.cache}: run `run.py prepare --set {name}`")
        paths += found
    return paths


def prepare_prompt(model, name, prompt):
    """Adds the prompt's cache and its reference log-probabilities, and for selection what the rules look at."""
    if name in SELECT_SETS:
        prompt.update(observe.prefill(model, prompt["ids"]))
    else:
        prompt["keys"], prompt["values"] = llama.prefill(model, prompt["ids"])
    prompt["reference"] = probe.reference(model, prompt, prompt["keys"].float(), prompt["values"].float())
    return prompt


def run_prepare(args):
    folder = args.cache / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = llama.load_tokenizer(args.model)
    todo = []
    for name in args.set:
        chosen = prompts.choose(args.data, name, tokenizer)[: args.limit]
        todo += [(name, folder / f"{name}_{i:02d}.pt", prompt) for i, prompt in enumerate(chosen)]
    todo = [entry for entry in todo if not entry[1].exists()]
    model, progress = llama.load(args.model), Progress(len(todo))
    for name, path, prompt in todo:
        partial = path.with_suffix(".partial")
        torch.save(prepare_prompt(model, name, prompt), partial)
        partial.rename(path)
        progress.step(f"{path.stem} {prompt['task']} {len(prompt['ids'])} tokens")


def run_quantise(args):
    path = args.cache / "quantise.json"
    results, paths = report.load(path), prompt_paths(args, args.set)
    model, progress = llama.load(args.model), Progress(len(paths))
    tokens = []
    for prompt_path in paths:
        prompt = torch.load(prompt_path)
        tokens.append(len(prompt["ids"]))
        for name, scheme in quantise.SCHEMES.items():
            row = results.setdefault(name, {})
            if prompt_path.stem not in row:
                row[prompt_path.stem] = quantise.measure(model, prompt, scheme)
        report.save(path, results)
        progress.step(prompt_path.stem)
    bits = {name: scheme.stored_bits(sum(tokens) / len(tokens)) for name, scheme in quantise.SCHEMES.items()}
    print(report.quantise_table(only(results, quantise.SCHEMES, paths), bits, quantise.BASELINE))


def run_drift(args):
    path = args.cache / "drift.json"
    results, paths = report.load(path), prompt_paths(args, ["small"])
    model, progress = llama.load(args.model), Progress(len(paths))
    for seed, prompt_path in enumerate(paths):
        prompt = torch.load(prompt_path)
        for name in quantise.DRIFT_SCHEMES:
            once, after = (results.setdefault(f"{name}, {when}", {}) for when in ("once", "after"))
            if prompt_path.stem not in after:
                measured = quantise.measure_drift(model, prompt, quantise.SCHEMES[name], seed)
                once[prompt_path.stem], after[prompt_path.stem] = measured
        report.save(path, results)
        progress.step(prompt_path.stem)
    print(report.drift_table(only(results, list(results), paths), quantise.DRIFT_SCHEMES))


def run_select(args):
    path, group = args.cache / "select.json", GROUPS[args.group]
    results, paths = report.load(path), prompt_paths(args, args.set)
    cells = [(report.row_name(name, fraction), variant, fraction)
             for name, variant in group.variants.items() for fraction in group.fractions]
    model, progress = llama.load(args.model), Progress(len(paths))
    for prompt_path in paths:
        todo = [cell for cell in cells if prompt_path.stem not in results.get(cell[0], {})]
        if todo:
            prompt = torch.load(prompt_path)
            observed = Observed(model, prompt)
            for row, variant, fraction in todo:
                measured = select.measure(model, prompt, observed, variant, fraction)
                results.setdefault(row, {})[prompt_path.stem] = measured
            report.save(path, results)
        progress.step(f"{prompt_path.stem} {len(todo)} measured")
    results = only(results, [cell[0] for cell in cells], paths)
    for baseline in group.baselines:
        print("\n" + report.select_table(results, group, baseline))
    if args.group == "representatives":
        print("\n" + report.random_table(results, group))


def only(results, rows, paths):
    """The named rows, and of them the prompts of this command."""
    names = [path.stem for path in paths]
    return {row: {name: results[row][name] for name in names} for row in rows}


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", type=pathlib.Path, default=".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf",
                        help="GGUF file of a Llama model (default: %(default)s)")
    common.add_argument("--cache", type=pathlib.Path, default=".cache/research",
                        help="folder for prepared prompts and results (default: %(default)s)")
    common.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    common.add_argument("--limit", type=int, help="at most so many prompts of each set")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, run, sets, about, **options):
        sub = commands.add_parser(name, parents=[common], help=about, description=about, **options)
        sub.set_defaults(run=run)
        if sets:
            sub.add_argument("--set", nargs="+", choices=sets, default=list(sets), help="default: %(default)s")
        return sub

    prepare = command("prepare", run_prepare, prompts.SETS, "choose prompts and prefill them")
    prepare.add_argument("--data", type=pathlib.Path, required=True, help="folder with longbench/ and needle/")
    command("quantise", run_quantise, QUANTISE_SETS, "compare low-bit schemes")
    command("drift", run_drift, (), "quantise once against again after each of eight prunes (set small)")
    groups = "\n".join(f"  {name:16} {group.about}" for name, group in GROUPS.items())
    sub = command("select", run_select, SELECT_SETS, "compare selection variants", epilog="groups:\n" + groups,
                  formatter_class=argparse.RawDescriptionHelpFormatter)
    sub.add_argument("--group", choices=list(GROUPS), default="ours", help="which variants (default: %(default)s)")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    args.run(args)
    return 0
