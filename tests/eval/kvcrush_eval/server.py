"""The running server, seen from here: requests of many variants, answers as plain dicts."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import grpc

from kvcrush_eval import EvalError
from kvcrush_eval.jobs import GenerateJob, Prompt, ScoreJob
from kvcrush_eval.stubs import pb, pb_grpc
from kvcrush_eval.variants import Variant

_NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
READY_TIMEOUT_S = 20
# Ends of a line that is not empty, for texts that open with a new line: 16 strings, the API's most.
LINE_ENDS = [before + "\n" for before in ".!?:\")\r estdynrl"]


def _enumerator(field, value) -> int:
    prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    known = {v.name.removeprefix(prefix).lower(): v.number for v in field.enum_type.values if v.number}
    if value not in known:
        raise ValueError(f"{field.name} is {value!r}, allowed: {', '.join(known)}")
    return known[value]


def to_proto(variant: Variant) -> pb.KvCompression:
    message = pb.KvCompression()
    fields = pb.KvCompression.DESCRIPTOR.fields_by_name
    for name, value in variant.settings.items():
        if name not in fields:
            raise EvalError(f"variant {variant.name!r}: KvCompression has no field {name!r}; it has: {', '.join(fields)}")
        try:
            setattr(message, name, _enumerator(fields[name], value) if fields[name].enum_type else value)
        except (TypeError, ValueError) as error:
            raise EvalError(f"variant {variant.name!r}: {name}: {error}") from error
    return message


def _set_prompt(request, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
    elif isinstance(prompt[0], dict):
        request.chat.messages.extend(pb.ChatMessage(**message) for message in prompt)
    else:
        request.token_ids.ids.extend(prompt)


def _short(field: str, message: pb.KvCompression) -> str:
    enum_type = message.DESCRIPTOR.fields_by_name[field].enum_type
    return enum_type.values_by_number[getattr(message, field)].name.removeprefix(
        enum_type.values[0].name.removesuffix("UNSPECIFIED")).lower()


def _cost(report: pb.CompressionReport, usage: pb.Usage) -> dict:
    """What a variant held and took. kv_bytes_held is missing where the server gave no ratio."""
    applied = report.applied
    cost = {
        "kv_bytes_full_16bit": report.kv_bytes_full_16bit,
        "budget_tokens": report.budget_tokens, "tokens_kept": round(report.tokens_kept.mean, 2),
        "prune_count": report.prune_count, "prune_ms": round(report.prune_ms, 4),
        "lookahead_tokens": report.lookahead_tokens, "lookahead_tokens_used": report.lookahead_tokens_used,
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "ttft_ms": round(usage.time_to_first_token_ms, 3), "total_ms": round(usage.total_ms, 3),
        "applied": f"{_short('policy', applied)} {_short('kv_dtype', applied)} share {applied.representative_share:g}",
    }
    if report.compression_ratio > 0:
        cost["kv_bytes_held"] = round(report.kv_bytes_full_16bit / report.compression_ratio)
    if report.note:
        cost["note"] = report.note
    return cost


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class Server:
    """One connection, usable from several threads. Calls raise grpc.RpcError."""

    def __init__(self, target: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(target, options=_NO_LIMIT)
        try:
            grpc.channel_ready_future(self._channel).result(timeout=READY_TIMEOUT_S)
        except grpc.FutureTimeoutError as error:
            raise EvalError(f"no server answers at {target}: start kvcrush-server with --listen {target}, or give --server "
                            "HOST:PORT") from error
        self._stub = pb_grpc.InferenceStub(self._channel)
        self.info = self._stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=timeout_s)

    def close(self) -> None:
        self._channel.close()

    @functools.lru_cache(maxsize=256)  # an answer is asked for once per chunk of variants
    def tokenize(self, text: str) -> list[int]:
        request = pb.TokenizeRequest(text=text, add_special_tokens=False)
        return list(self._stub.Tokenize(request, timeout=self._timeout_s).token_ids)

    def generate(self, job: GenerateJob, variants: Sequence[Variant]) -> list[dict]:
        """One result per variant."""
        completions = self._complete(job, variants, ["\n"] if job.stop_at_newline else [])
        # A text that opens with a new line: the line that counts comes after it, so only a new line after something may end it.
        again = [i for i, c in enumerate(completions) if job.stop_at_newline and not c.text and c.finish.stop_match]
        if again:
            for i, completion in zip(again, self._complete(job, [variants[i] for i in again], LINE_ENDS)):
                completion.text += completion.finish.stop_match.removesuffix("\n")
                completions[i] = completion
        results = []
        for completion in completions:
            result = {"text": completion.text, **_cost(completion.finish.compression, completion.finish.usage)}
            if job.score is not None:
                result["score"] = job.score(completion.text)
            results.append(result)
        return results

    def _complete(self, job: GenerateJob, variants: Sequence[Variant], stop: list[str]) -> list[pb.Completion]:
        request = pb.GenerateRequest(variants=[to_proto(variant) for variant in variants])
        _set_prompt(request, job.prompt)
        request.sampling.temperature = 0
        request.sampling.max_tokens = job.max_tokens
        request.sampling.stop.extend(stop)
        if job.ignore_eos:
            request.sampling.ignore_eos = True
        answer = self._stub.GenerateOnce(request, timeout=self._timeout_s)
        if [c.index for c in answer.completions] != list(range(len(variants))):
            raise EvalError(f"asked for {len(variants)} variants, got samples {[c.index for c in answer.completions]}: does this "
                            "server know GenerateRequest.variants?")
        return list(answer.completions)

    def _continuation(self, job: ScoreJob) -> list[int]:
        if job.continuation is None:
            request = pb.GenerateRequest(variants=[pb.KvCompression(policy=pb.BASE_POLICY_OFF)])
            _set_prompt(request, job.prompt)
            request.sampling.temperature = 0
            request.sampling.max_tokens = job.max_continuation_tokens
            ids = list(self._stub.GenerateOnce(request, timeout=self._timeout_s).completions[0].token_ids)
        elif isinstance(job.continuation, str):
            ids = self.tokenize(job.continuation)[: job.max_continuation_tokens]
        else:
            return job.continuation
        # The first token is predicted before anything is pruned: an answer of one token is followed by its end.
        return ids if len(ids) > 1 else [*ids, self.info.stop_token_ids[0]]

    def score(self, job: ScoreJob, variants: Sequence[Variant]) -> list[dict]:
        """One result per variant; means over positions from 1 on, as position 0 is equal in all."""
        request = pb.ScoreRequest(variants=[to_proto(variant) for variant in variants], compare_to_full=job.compare_to_full)
        _set_prompt(request, job.prompt)
        request.continuation_token_ids.ids.extend(self._continuation(job))
        answer = self._stub.Score(request, timeout=self._timeout_s)
        if [v.index for v in answer.variants] != list(range(len(variants))):
            raise EvalError(f"asked to score {len(variants)} variants, got {[v.index for v in answer.variants]}")
        results = []
        for scored in answer.variants:
            result = {"positions": len(scored.logprobs) - 1, "logprob": _mean(scored.logprobs[1:])}
            if job.compare_to_full:
                result["kl"] = _mean(scored.kl_divergences[1:])
                result["agreement"] = _mean(scored.top1_agrees[1:])
                result["full_logprob"] = _mean(answer.full_logprobs[1:])
            results.append({**result, **_cost(scored.compression, scored.usage)})
        return results
