"""Messages of protobuf by field number, without their schema."""

import struct


def wire(*fields):
    """(number, value): bytes and str length-delimited, int varint, float as float, ("d", x) as double."""
    data = b""
    for number, value in fields:
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            data += varint(number << 3 | 2) + varint(len(value)) + value
        elif isinstance(value, int):
            data += varint(number << 3) + varint(value & (1 << 64) - 1)
        elif isinstance(value, float):
            data += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            data += varint(number << 3 | 1) + struct.pack("<d", value[1])
    return data


def varint(value):
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])
