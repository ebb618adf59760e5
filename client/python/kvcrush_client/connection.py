"""How the client reaches the server: encryption, who it says it is, and when it tries again."""

from __future__ import annotations

import os
import pathlib
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Union

import grpc

Pem = Union[str, "os.PathLike[str]", bytes]
_TRANSIENT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
_INITIAL_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
_MAX_RETRY_AFTER_S = 60.0
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _pem(value: Pem | None) -> bytes | None:
    """bytes are the PEM itself, anything else is the path of a file."""
    if value is None or isinstance(value, bytes):
        return value
    return pathlib.Path(value).read_bytes()


def tls_credentials(ca: Pem | None = None, certificate: Pem | None = None, key: Pem | None = None) -> grpc.ChannelCredentials:
    """Credentials from PEM; without `ca` the certificates that gRPC trusts by itself."""
    if (certificate is None) != (key is None):
        raise ValueError("tls_cert and tls_key are needed together, only one is given")
    return grpc.ssl_channel_credentials(_pem(ca), _pem(key), _pem(certificate))


def call_metadata(token: str | None, tenant: str | None, traceparent: str | None) -> list[tuple[str, str]]:
    """What every call carries. ValueError: a value that no header can hold (a token's text is not in the message)."""
    for name, value in ("token", token), ("tenant", tenant):
        if value is not None and not re.fullmatch(r"[!-~]+", value):
            shown = "" if name == "token" else f" is {value!r},"
            raise ValueError(f"{name}{shown} allowed: visible ASCII characters, at least one")
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        raise ValueError(f"traceparent is {traceparent!r}, allowed: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, ids not zero")
    given = (("authorization", token and f"Bearer {token}"), ("x-tenant", tenant), ("traceparent", traceparent))
    return [(name, value) for name, value in given if value is not None]


def _retry_after_s(error: grpc.RpcError) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and re.fullmatch(r"\d{1,10}", str(value)):
            return int(value) / 1000
    return None


def retry_wait_s(error: grpc.RpcError, tried: int, max_retries: int, jitter: float) -> float | None:
    """Seconds to wait before the next try, None: the failure is final. At least what the server asks for and up to a
    quarter more, or between half and the whole of a doubling backoff; jitter is in [0, 1)."""
    if error.code() not in _TRANSIENT or tried > max_retries:
        return None
    asked_s = _retry_after_s(error)
    if asked_s is not None:
        return asked_s * (1 + jitter / 4) if asked_s <= _MAX_RETRY_AFTER_S else None
    return min(_INITIAL_BACKOFF_S * 2 ** min(tried - 1, 30), _MAX_BACKOFF_S) * (1 + jitter) / 2


class Caller:
    """Makes calls with metadata, deadline and retries; the deadline counts from the first try."""

    def __init__(self, timeout_s: float | None, metadata: list[tuple[str, str]], max_retries: int) -> None:
        self._timeout_s = timeout_s
        self._metadata = metadata
        self._max_retries = max_retries

    def _until(self) -> float | None:
        return None if self._timeout_s is None else time.monotonic() + self._timeout_s

    def _start(self, method: Any, request: Any, until: float | None) -> Any:
        timeout_s = None if until is None else max(until - time.monotonic(), 0.001)
        return method(request, timeout=timeout_s, metadata=self._metadata)

    def _wait_or_raise(self, error: grpc.RpcError, tried: int, until: float | None) -> None:
        wait_s = retry_wait_s(error, tried, self._max_retries, random.random())
        if wait_s is None or (until is not None and time.monotonic() + wait_s >= until):
            raise error
        time.sleep(wait_s)

    def unary(self, method: Callable[..., Any], request: Any) -> Any:
        until, tried = self._until(), 0
        while True:
            tried += 1
            try:
                return self._start(method, request, until)
            except grpc.RpcError as error:
                self._wait_or_raise(error, tried, until)

    def stream(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """Tries again only before the first chunk. Closing the iterator cancels the call."""
        until, tried = self._until(), 0
        while True:
            tried += 1
            begun = False
            call = self._start(method, request, until)
            try:
                for chunk in call:
                    begun = True
                    yield chunk
                return
            except grpc.RpcError as error:
                if begun:
                    raise
                self._wait_or_raise(error, tried, until)
            finally:
                call.cancel()
