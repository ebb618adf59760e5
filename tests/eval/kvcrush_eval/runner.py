"""Sends what is not measured yet, several requests at a time, and stores each answer at once."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Iterator, Sequence

import grpc
from tqdm import tqdm

from kvcrush_eval import EvalError
from kvcrush_eval.jobs import GenerateJob, Job, ScoreJob
from kvcrush_eval.server import Server
from kvcrush_eval.store import Store
from kvcrush_eval.variants import Variant

MAX_FAILURES = 10
Unit = tuple[Job, list[Variant]]  # one request


def _runs_alone(job: Job) -> bool:
    return isinstance(job, GenerateJob) and job.one_variant_per_request


def make_units(jobs: Sequence[Job], variants: Sequence[Variant], variants_per_request: int, store: Store) -> Iterator[Unit]:
    """Requests for what the store lacks."""
    for job in jobs:
        missing = [v for v in variants if (job.task, job.dataset, job.sample, v.name) not in store.done]
        size = 1 if _runs_alone(job) else variants_per_request
        for first in range(0, len(missing), size):
            yield job, missing[first : first + size]


def _measure(server: Server, unit: Unit) -> list[dict]:
    job, variants = unit
    results = server.score(job, variants) if isinstance(job, ScoreJob) else server.generate(job, variants)
    return [{"task": job.task, "dataset": job.dataset, "sample": job.sample, "variant": variant.name,
             "settings": variant.settings, **job.extra, **result} for variant, result in zip(variants, results)]


class Run:
    def __init__(self, server: Server, store: Store, units: list[Unit], skipped: int) -> None:
        self._server, self._store, self._units = server, store, units
        total = sum(len(variants) for _, variants in units)
        self.failures: list[str] = []
        self._bar = tqdm(total=total, unit="result", desc="eval", smoothing=0.05, file=sys.stderr)
        if skipped:
            self._bar.write(f"{skipped} results are there already", file=sys.stderr)

    def _finish(self, unit: Unit, future: concurrent.futures.Future) -> None:
        job, variants = unit
        try:
            self._store.append(future.result())
        except grpc.RpcError as error:
            what = f"{job.task}/{job.dataset}/{job.sample} ({variants[0].name}...): {error.code().name}: {error.details()}"
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise EvalError(f"the server is gone: {error.details()}\nstart it and run the same command again: it goes on "
                                "where it stopped") from error
            self.failures.append(what)
            self._bar.write(f"failed: {what}", file=sys.stderr)
            if len(self.failures) >= MAX_FAILURES:
                raise EvalError(f"{MAX_FAILURES} requests failed, the last: {what}") from error
        self._bar.set_postfix_str(f"{job.task}/{job.dataset}", refresh=False)
        self._bar.update(len(variants))

    def _run(self, units: list[Unit], parallel: int) -> None:
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            futures = {pool.submit(_measure, self._server, unit): unit for unit in units}
            try:
                for future in concurrent.futures.as_completed(futures):
                    self._finish(futures[future], future)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._server.close()  # ends the calls under way
                raise

    def run(self, parallel: int) -> None:
        """All units; those that measure speed come last, one after the other."""
        try:
            self._run([unit for unit in self._units if not _runs_alone(unit[0])], parallel)
            self._run([unit for unit in self._units if _runs_alone(unit[0])], 1)
        finally:
            self._bar.close()


def run(server: Server, store: Store, jobs: Sequence[Job], variants: Sequence[Variant], *, parallel: int,
        variants_per_request: int) -> list[str]:
    """Measures what is missing. Returns what failed, one line each; those are tried again by the next run."""
    units = list(make_units(jobs, variants, variants_per_request, store))
    missing = sum(len(chunk) for _, chunk in units)
    running = Run(server, store, units, len(jobs) * len(variants) - missing)
    running.run(parallel)
    return running.failures
