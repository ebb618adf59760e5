"""OpenVINO GenAI's continuous batching behind a pipe (see pipe.py): a pipeline is what is opened."""

from __future__ import annotations

import time

import pipe

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

        pipeline, num_blocks = self._pipelines[message["run"]]
        config = self._genai.GenerationConfig()
        config.max_new_tokens = message["max_new_tokens"]
        config.do_sample = False
        config.ignore_eos = True
        tensors = [openvino.Tensor(numpy.array([ids], dtype=numpy.int64)) for ids in message["prompts"]]
        ids: list[list[int]] = [[] for _ in tensors]
        times_ms: list[list[float]] = [[] for _ in tensors]
        usage_percent: list[float] = []
        start_s = time.perf_counter()
        handles = [pipeline.add_request(self._num_requests + i, tensor, config) for i, tensor in enumerate(tensors)]
        self._num_requests += len(tensors)
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now_ms = 1000 * (time.perf_counter() - start_s)
            usage_percent.append(pipeline.get_metrics().cache_usage)
            for i, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        ids[i] += output.generated_ids
                        times_ms[i] += [now_ms] * len(output.generated_ids)
        block_bytes = pipeline.get_metrics().cache_size_in_bytes // num_blocks  # known only after a first request
        used_bytes = [round(percent / 100 * num_blocks) * block_bytes for percent in usage_percent]
        return {"ids": ids, "times_ms": times_ms, "peak_kv_bytes": max(used_bytes), "held_kv_bytes": used_bytes[-1]}


if __name__ == "__main__":
    pipe.serve(Worker)
