"""HTTP/2 frames by hand: what a client may send that no gRPC library would."""

from __future__ import annotations

import dataclasses
import socket
import struct
import time

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4  # a setting


@dataclasses.dataclass
class Answer:
    headers: bytes = b""  # all header blocks as they came; the first use of a name on a connection is plain text
    data: bytes = b""
    ended: bool = False   # by the server, well or not
    reset: bool = False

    def has_status(self, code: int) -> bool:
        """Of the first answer on a connection; later ones refer to it."""
        text = str(code).encode()
        return b"grpc-status" + bytes([len(text)]) + text in self.headers


class Connection:
    """`window`: how many bytes the server may send on a stream before it has to wait."""

    def __init__(self, target: str, window: int = 65535) -> None:
        host, port = target.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._unread = b""
        self._next_stream = 1
        self._authority = target.encode()
        self.answers: dict[int, Answer] = {}
        self.closed = False
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._socket.sendall(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def call(self, method: str, message, headers: tuple[tuple[bytes, bytes], ...] = ()) -> int:
        """Sends a whole unary call; the id of its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.answers[stream] = Answer()
        block = b""
        for name, value in ((b":method", b"POST"), (b":scheme", b"http"), (b":authority", self._authority),
                            (b":path", b"/kvcrush.v1.Inference/" + method.encode()), (b"te", b"trailers"),
                            (b"content-type", b"application/grpc"), *headers):
            assert len(name) < 127 and len(value) < 127, "longer strings have longer lengths"
            block += bytes([0, len(name)]) + name + bytes([len(value)]) + value
        body = message.SerializeToString()
        self._send(HEADERS, END_HEADERS, stream, block)
        self._send(DATA, END_STREAM, stream, struct.pack(">BI", 0, len(body)) + body)
        return stream

    def open_window(self, stream: int, num_bytes: int) -> None:
        self._send(WINDOW_UPDATE, 0, stream, struct.pack(">I", num_bytes))

    def wait(self, stream: int, timeout_s: float) -> Answer:
        """Until the server has ended the stream or the connection, or the time is over."""
        answer, deadline = self.answers[stream], time.monotonic() + timeout_s
        while not (answer.ended or self.closed) and (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                received = self._socket.recv(65536)
            except TimeoutError:
                break
            except ConnectionResetError:
                received = b""
            self.closed = not received
            self._unread += received
            while len(self._unread) >= 9 and len(self._unread) >= 9 + (size := int.from_bytes(self._unread[:3], "big")):
                kind, flags, number = struct.unpack(">BBI", self._unread[3:9])
                payload, self._unread = self._unread[9:9 + size], self._unread[9 + size:]
                self._take(kind, flags, number & 0x7FFFFFFF, payload)
        return answer

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (SETTINGS, PING) and not flags & ACK:
            self._send(kind, ACK, 0, payload if kind == PING else b"")
        answer = self.answers.get(stream)
        if answer is None:
            return
        if kind == HEADERS:
            answer.headers += payload
        elif kind == DATA:
            answer.data += payload
        elif kind == RST_STREAM:
            answer.reset = True
        answer.ended = answer.ended or answer.reset or (kind in (HEADERS, DATA) and bool(flags & END_STREAM))
