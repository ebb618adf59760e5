"""A thin layer over the generated stubs: requests from plain Python values, answers as the API's own messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

import grpc
from kvcrush.v1 import inference_pb2 as pb
from kvcrush.v1 import inference_pb2_grpc as pb_grpc

from kvcrush_client.chat import build_chat
from kvcrush_client.connection import Caller, Pem, call_metadata, tls_credentials

Prompt = Union[str, Sequence[Mapping[str, Any]], Sequence[int]]
_CHAT_WITHOUT_MESSAGES = "chat is given with a prompt that is not a list of messages"
_NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _enum_value(field: Any, value: Any) -> Any:
    """'snapkv' or 'BASE_POLICY_SNAPKV' -> the enumerator's number; numbers pass unchanged."""
    if not isinstance(value, str):
        return value
    wanted = value.upper().replace("-", "_")
    for name, descriptor in field.enum_type.values_by_name.items():
        if name == wanted or name.endswith("_" + wanted):
            return descriptor.number
    known = ", ".join(field.enum_type.values_by_name)
    raise ValueError(f"{field.name} is {value!r}, allowed: {known} or their last words")


def _fill(message: Any, values: Mapping[str, Any]) -> None:
    """Sets fields by name, None leaving them out; ValueError names the unknown field or the value that does not fit."""
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in values.items():
        field = fields.get(name)
        if field is None:
            raise ValueError(f"{message.DESCRIPTOR.name} has no field {name!r}; it has: {', '.join(fields)}")
        if value is None:
            continue
        if field.label == field.LABEL_REPEATED:
            getattr(message, name).extend(value)
        else:
            setattr(message, name, _enum_value(field, value) if field.enum_type else value)


def _is_chat(prompt: Prompt) -> bool:
    return len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _set_prompt(request: Any, prompt: Prompt, chat: Mapping[str, Any] | None) -> None:
    if isinstance(prompt, str):
        request.text = prompt
    elif _is_chat(prompt):
        request.chat.CopyFrom(build_chat(prompt, **chat or {}))
        return
    else:
        request.token_ids.CopyFrom(pb.TokenIds(ids=prompt))
    if chat is not None:
        raise ValueError(_CHAT_WITHOUT_MESSAGES)


def _add_variants(request: Any, variants: Sequence[Mapping[str, Any]] | None) -> None:
    for variant in variants or ():
        _fill(request.variants.add(), variant)


def build_request(
    prompt: Prompt,
    *,
    request_id: str = "",
    compression: Mapping[str, Any] | None = None,
    variants: Sequence[Mapping[str, Any]] | None = None,
    priority: int | None = None,
    prefix_cache: Mapping[str, Any] | None = None,
    speculation: Mapping[str, Any] | None = None,
    chat: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> pb.GenerateRequest:
    """A GenerateRequest from a string, a list of chat messages or a list of token ids.

    `sampling` are fields of SamplingParams, `compression` those of KvCompression; None leaves the server's default.
    `variants` asks for one sample per entry, each with a compression of its own, instead of `compression` and `n`.
    `prefix_cache` are fields of PrefixCaching: `bypass`, `salt`; `speculation` those of Speculation: `lookup_tokens`.
    `chat` is what a chat has beside its messages (see build_chat): `tools`, `template_kwargs`, `add_generation_prompt`.
    """
    request = pb.GenerateRequest(request_id=request_id)
    _set_prompt(request, prompt, chat)
    _fill(request.sampling, sampling)
    if compression is not None:
        request.compression.SetInParent()
        _fill(request.compression, compression)
    _add_variants(request, variants)
    if priority is not None:
        request.priority = priority
    if prefix_cache is not None:
        _fill(request.prefix_cache, prefix_cache)
    if speculation is not None:
        _fill(request.speculation, speculation)
    return request


def build_score_request(
    prompt: Prompt,
    continuation: str | Sequence[int],
    *,
    request_id: str = "",
    variants: Sequence[Mapping[str, Any]] | None = None,
    compare_to_full: bool | None = None,
    chat: Mapping[str, Any] | None = None,
) -> pb.ScoreRequest:
    """A ScoreRequest; the continuation is a string or token ids, `variants` and `chat` are as in build_request."""
    request = pb.ScoreRequest(request_id=request_id, compare_to_full=compare_to_full)
    _set_prompt(request, prompt, chat)
    if isinstance(continuation, str):
        request.continuation_text = continuation
    else:
        request.continuation_token_ids.CopyFrom(pb.TokenIds(ids=continuation))
    _add_variants(request, variants)
    return request


class Client:
    """One connection to a server; usable from several threads. Calls raise grpc.RpcError with code() and details()."""

    def __init__(self, target: str = "127.0.0.1:50051", *, timeout_s: float | None = None,
                 credentials: grpc.ChannelCredentials | None = None, tls: bool = False, tls_ca: Pem | None = None,
                 tls_cert: Pem | None = None, tls_key: Pem | None = None, tls_server_name: str | None = None,
                 token: str | None = None, tenant: str | None = None, traceparent: str | None = None,
                 max_retries: int = 0) -> None:
        """`timeout_s` is the deadline of every call, its retries included.

        `tls` encrypts, and so does any of the options named after it: `tls_ca` are the certificates that may sign the
        server's (default: those that gRPC trusts by itself), `tls_cert` and `tls_key` the client's own where the server
        asks for one; each is a path, or the PEM itself as bytes. `credentials` are gRPC's own instead. `token` goes along
        as `authorization: Bearer ...` and can be read by others on the way unless the connection is encrypted, `tenant`
        as `x-tenant`. `max_retries` counts tries after a RESOURCE_EXHAUSTED or UNAVAILABLE that came before anything of
        an answer; the wait is the server's `retry-after-ms`, else it doubles.
        """
        if credentials is None and (tls or any((tls_ca, tls_cert, tls_key, tls_server_name))):
            credentials = tls_credentials(tls_ca, tls_cert, tls_key)
        elif credentials is not None and any((tls_ca, tls_cert, tls_key)):
            raise ValueError("give credentials or tls_ca, tls_cert and tls_key, not both")
        self._caller = Caller(timeout_s, call_metadata(token, tenant, traceparent), max_retries)
        options = _NO_LIMIT + ([("grpc.ssl_target_name_override", tls_server_name)] if tls_server_name else [])
        self._channel = (grpc.secure_channel(target, credentials, options=options) if credentials
                         else grpc.insecure_channel(target, options=options))
        self._stub = pb_grpc.InferenceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what runs and closes the connection."""
        self._channel.close()

    def generate(self, prompt: Prompt, **options: Any) -> Iterator[pb.GenerateResponse]:
        """Yields chunks as they come (options: see build_request). Closing the iterator cancels the request."""
        yield from self._caller.stream(self._stub.Generate, build_request(prompt, **options))

    def generate_once(self, prompt: Prompt, **options: Any) -> pb.GenerateOnceResponse:
        """The whole answer at once (options: see build_request)."""
        return self._caller.unary(self._stub.GenerateOnce, build_request(prompt, **options))

    def score(self, prompt: Prompt, continuation: str | Sequence[int], **options: Any) -> pb.ScoreResponse:
        """What compressions of the prompt's KV cache cost on a known continuation (options: see build_score_request)."""
        return self._caller.unary(self._stub.Score, build_score_request(prompt, continuation, **options))

    def tokenize(self, text: str | Sequence[Mapping[str, Any]], *, add_special_tokens: bool | None = None,
                 chat: Mapping[str, Any] | None = None) -> pb.TokenizeResponse:
        """Tokens of a text or of a list of chat messages as the chat template renders them (`chat`: see build_request)."""
        request = pb.TokenizeRequest(add_special_tokens=add_special_tokens)
        if not isinstance(text, str):
            request.chat.CopyFrom(build_chat(text, **chat or {}))
        elif chat is None:
            request.text = text
        else:
            raise ValueError(_CHAT_WITHOUT_MESSAGES)
        return self._caller.unary(self._stub.Tokenize, request)

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool | None = None) -> str:
        request = pb.DetokenizeRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        return self._caller.unary(self._stub.Detokenize, request).text

    def model_info(self) -> pb.GetModelInfoResponse:
        return self._caller.unary(self._stub.GetModelInfo, pb.GetModelInfoRequest())

    def stats(self) -> pb.GetStatsResponse:
        return self._caller.unary(self._stub.GetStats, pb.GetStatsRequest())

    def abort(self, request_id: str) -> None:
        """Ends a running or waiting request; its stream finishes with FINISH_REASON_ABORT."""
        self._caller.unary(self._stub.Abort, pb.AbortRequest(request_id=request_id))
