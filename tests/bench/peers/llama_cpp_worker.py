"""llama.cpp behind a pipe (see pipe.py), through its C API as llama-cpp-python binds it: a context is what is opened."""

from __future__ import annotations

import logging
import time

import pipe


class Worker:
    def __init__(self) -> None:
        import llama_cpp

        logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # the library's own messages too
        self._llama = llama_cpp
        llama_cpp.llama_backend_init()
        self._models: dict = {}
        self._contexts: dict = {}

    def _model(self, path: str):
        if path not in self._models:
            model = self._llama.llama_model_load_from_file(path.encode(), self._llama.llama_model_default_params())
            if not model:
                raise RuntimeError(f"llama_model_load_from_file refused {path}")
            self._models[path] = model
        return self._models[path]

    def open(self, message: dict) -> dict:
        llama = self._llama
        model = self._model(message["model"])
        params = llama.llama_context_default_params()
        params.n_ctx = message["num_sequences"] * message["sequence_tokens"]
        params.n_seq_max = message["num_sequences"]
        params.n_batch = params.n_ubatch = message["batch_tokens"]
        params.n_threads = params.n_threads_batch = message["threads"]
        params.type_k = params.type_v = getattr(llama, f"GGML_TYPE_{message['kv_type'].upper()}")
        if message["flash_attention"]:
            params.flash_attn_type = getattr(llama, f"LLAMA_FLASH_ATTN_TYPE_{message['flash_attention'].upper()}")
        context = llama.llama_init_from_model(model, params)
        if not context:
            raise RuntimeError(f"llama_init_from_model refused {message}; its messages are above")
        num_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self._contexts[message["open"]] = (context, num_vocab, message["batch_tokens"])
        return {"version": llama.__version__, "system": llama.llama_print_system_info().decode(), **message}

    def _decode(self, context, batch, tokens: list[tuple[int, int, int, bool]]) -> None:
        """One call of llama_decode; a token is (id, position, sequence, whether its logits are wanted)."""
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        if code := self._llama.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode answered {code}")

    def run(self, message: dict) -> dict:
        """Prompts one after the other, then all sequences together, a token each per step."""
        import numpy

        llama = self._llama
        context, num_vocab, batch_tokens = self._contexts[message["run"]]
        prompts = message["prompts"]

        def likeliest(place: int) -> int:
            return int(numpy.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (num_vocab,)).argmax())

        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        batch = llama.llama_batch_init(batch_tokens, 0, 1)
        ids: list[list[int]] = []
        times_ms: list[list[float]] = []
        start_s = time.perf_counter()
        for sequence, prompt in enumerate(prompts):
            for begin in range(0, len(prompt), batch_tokens):
                end = min(begin + batch_tokens, len(prompt))
                self._decode(context, batch, [(prompt[i], i, sequence, i + 1 == len(prompt)) for i in range(begin, end)])
            ids.append([likeliest(-1)])
            times_ms.append([1000 * (time.perf_counter() - start_s)])
        for step in range(message["max_new_tokens"] - 1):
            self._decode(context, batch, [(ids[s][-1], len(prompt) + step, s, True) for s, prompt in enumerate(prompts)])
            for sequence in range(len(prompts)):
                ids[sequence].append(likeliest(sequence))
            now_ms = 1000 * (time.perf_counter() - start_s)
            for times in times_ms:
                times.append(now_ms)
        llama.llama_batch_free(batch)
        return {"ids": ids, "times_ms": times_ms}


if __name__ == "__main__":
    pipe.serve(Worker)
