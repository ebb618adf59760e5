"""OpenVINO GenAI behind a pipe: runs in the peer's own venv, one JSON object per line in and out.

{"open": NAME, ...} builds a pipeline, {"run": NAME, "ids": [...], "max_new_tokens": N} answers with ids, times and KV bytes.
Every failure is answered as {"error": TEXT}; the parent decides.
"""

from __future__ import annotations

import json
import os
import sys
import time

BLOCK_TOKENS = 32  # of the CPU plugin's paged attention


def _eviction(genai, setting: dict):
    """Budget in whole blocks. The peer keeps KVCrush's blocks on top of max_cache_size, so they are taken off it here."""
    crush = genai.KVCrushConfig(setting["crush_blocks"], getattr(genai.KVCrushAnchorPointMode, setting["anchor"].upper()), 0)
    return genai.CacheEvictionConfig(setting["start_tokens"], setting["recent_tokens"],
                                     setting["budget_tokens"] - setting["crush_blocks"] * BLOCK_TOKENS,
                                     genai.AggregationMode.NORM_SUM, kvcrush_config=crush)


class Worker:
    def __init__(self) -> None:
        import openvino_genai

        self._genai = openvino_genai
        self._pipelines: dict = {}
        self._num_requests = 0

    def open(self, message: dict) -> dict:
        genai = self._genai
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = message["num_kv_blocks"]
        scheduler.max_num_batched_tokens = message["batch_tokens"]
        scheduler.enable_prefix_caching = False
        if message["eviction"]:
            scheduler.use_cache_eviction = True
            scheduler.cache_eviction_config = _eviction(genai, message["eviction"])
        properties = {"KV_CACHE_PRECISION": message["kv_precision"], "INFERENCE_NUM_THREADS": message["threads"],
                      "ENABLE_HYPER_THREADING": True}
        if message["inference_precision"]:
            properties["INFERENCE_PRECISION_HINT"] = message["inference_precision"]
        pipeline = genai.ContinuousBatchingPipeline(message["model"], scheduler, "CPU", properties)
        self._pipelines[message["open"]] = (pipeline, message["num_kv_blocks"])
        return {"version": genai.get_version(), **message}

    def run(self, message: dict) -> dict:
        import numpy
        import openvino

        genai = self._genai
        pipeline, num_blocks = self._pipelines[message["run"]]
        config = genai.GenerationConfig()
        config.max_new_tokens = message["max_new_tokens"]
        config.do_sample = False
        config.ignore_eos = True
        tensor = openvino.Tensor(numpy.array([message["ids"]], dtype=numpy.int64))
        self._num_requests += 1
        ids: list[int] = []
        usage_percent: list[float] = []
        start_s = first_s = last_s = time.perf_counter()
        handle = pipeline.add_request(self._num_requests, tensor, config)
        while pipeline.has_non_finished_requests():
            pipeline.step()
            last_s = time.perf_counter()
            usage_percent.append(pipeline.get_metrics().cache_usage)
            while handle.can_read():
                for output in handle.read().values():
                    first_s = first_s if ids else last_s
                    ids += output.generated_ids
        block_bytes = pipeline.get_metrics().cache_size_in_bytes // num_blocks  # known only after a first request
        used_bytes = [round(percent / 100 * num_blocks) * block_bytes for percent in usage_percent]
        return {"ids": ids, "ttft_ms": 1000 * (first_s - start_s), "tpot_ms": 1000 * (last_s - first_s) / max(len(ids) - 1, 1),
                "peak_kv_bytes": max(used_bytes), "held_kv_bytes": used_bytes[-1]}


def main() -> None:
    # The libraries print to stdout; answers keep a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            worker = worker or Worker()
            answer = worker.open(message) if "open" in message else worker.run(message)
        except Exception as error:  # noqa: BLE001: the parent shows whatever the peer raises
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
