"""The wire types of NeuroShard, made from proto/schema.json by `cargo xtask bindings`: do not edit.

    vote = decode(Vote, data)        # bytes to a value, or a WireError that says where they are wrong
    assert encode(Vote, vote) == data

Structs are frozen dataclasses. Enums whose variants hold nothing are `enum.IntEnum`s; of others each variant is a
dataclass that is an attribute of its enum (`Action.Transfer`). Types with one field and no further meaning (`Hash`,
`Amount`, `Time`) are their content: bytes or integers. Lists are tuples, options are `None` or the value.

`decode` is strict: nothing may follow, and each value has one encoding. It checks the wire's shape and limits. It checks
neither signatures nor what the network agrees on, so what it returns is what somebody said, not what is so.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Optional, Tuple


class WireError(ValueError):
    """Bytes that are not an encoding, or a value that has none. `path` says where, `offset` how many bytes were read."""

    def __init__(self, path: str, why: str, offset: Optional[int] = None):
        at = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{path}{at}: {why}")
        self.path, self.why, self.offset = path, why, offset


class _Reader:
    """Bytes and how far they are read."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int, path: str) -> bytes:
        rest = len(self.data) - self.at
        if count > rest:
            raise WireError(path, f"{count} more bytes are needed, {rest} are left", self.at)
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self, bits: int, path: str) -> int:
        value, begin = 0, self.at
        for shift in range(0, bits, 7):
            byte = self.take(1, path)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    raise WireError(path, f"the integer has more than {bits} bits", begin)
                if byte == 0 and shift:
                    raise WireError(path, "the integer has a shorter encoding", begin)
                return value
        raise WireError(path, f"the integer has more than {bits} bits", begin)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Uint:
    """An unsigned integer: seven bits a byte, the lowest first. One of eight bits is a byte."""

    def __init__(self, bits: int):
        self.bits = bits

    def read(self, reader: _Reader, path: str) -> int:
        return reader.take(1, path)[0] if self.bits == 8 else reader.varint(self.bits, path)

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) is int and 0 <= value < 1 << self.bits, path, f"an integer of {self.bits} bits", value)
        return bytes((value,)) if self.bits == 8 else _varint(value)


class _Int:
    """A signed integer: the sign is the lowest bit."""

    def __init__(self, bits: int):
        self.bits = bits

    def read(self, reader: _Reader, path: str) -> int:
        value = reader.varint(self.bits, path)
        return value >> 1 ^ -(value & 1)

    def write(self, value: Any, path: str) -> bytes:
        half = 1 << self.bits - 1
        _want(type(value) is int and -half <= value < half, path, f"a signed integer of {self.bits} bits", value)
        return _varint(value << 1 if value >= 0 else (~value << 1) | 1)


class _Flag:
    def read(self, reader: _Reader, path: str) -> bool:
        byte = reader.take(1, path)[0]
        if byte > 1:
            raise WireError(path, f"{byte} is neither 0 nor 1", reader.at - 1)
        return byte == 1

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) is bool, path, "a bool", value)
        return bytes((value,))


class _Raw:
    """So many bytes, no more and no fewer."""

    def __init__(self, count: int):
        self.count = count

    def read(self, reader: _Reader, path: str) -> bytes:
        return reader.take(self.count, path)

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) is bytes and len(value) == self.count, path, f"{self.count} bytes", value)
        return value


class _Blob:
    """At most so many bytes, after their number."""

    def __init__(self, limit: int):
        self.limit = limit

    def read(self, reader: _Reader, path: str) -> bytes:
        return reader.take(_length(reader, self.limit, path), path)

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) is bytes and len(value) <= self.limit, path, f"at most {self.limit} bytes", value)
        return _varint(len(value)) + value


class _Text:
    """UTF-8 of at most so many bytes, after their number."""

    def __init__(self, limit: int):
        self.limit = limit

    def read(self, reader: _Reader, path: str) -> str:
        begin = reader.at
        raw = reader.take(_length(reader, self.limit, path), path)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise WireError(path, "the text is not UTF-8", begin) from None

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) is str, path, "a str", value)
        try:
            raw = value.encode("utf-8")
        except UnicodeEncodeError:
            raise WireError(path, "the text has no UTF-8") from None
        _want(len(raw) <= self.limit, path, f"at most {self.limit} bytes of UTF-8", value)
        return _varint(len(raw)) + raw


class _Option:
    def __init__(self, inner: Any):
        self.inner = inner

    def read(self, reader: _Reader, path: str) -> Any:
        byte = reader.take(1, path)[0]
        if byte > 1:
            raise WireError(path, f"{byte} is neither 0 nor 1", reader.at - 1)
        return self.inner.read(reader, path) if byte else None

    def write(self, value: Any, path: str) -> bytes:
        return b"\x00" if value is None else b"\x01" + self.inner.write(value, path)


class _List:
    """At most so many items, after their number. Each item takes a byte at least, so a lying number costs nothing."""

    def __init__(self, inner: Any, limit: int):
        self.inner, self.limit = inner, limit

    def read(self, reader: _Reader, path: str) -> Tuple[Any, ...]:
        count = _length(reader, self.limit, path)
        rest = len(reader.data) - reader.at
        if count > rest:
            raise WireError(path, f"{count} items do not fit in the {rest} bytes that are left", reader.at)
        return tuple(self.inner.read(reader, f"{path}[{place}]") for place in range(count))

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) in (tuple, list) and len(value) <= self.limit, path, f"at most {self.limit} items", value)
        items = (self.inner.write(item, f"{path}[{place}]") for place, item in enumerate(value))
        return _varint(len(value)) + b"".join(items)


class _Tuple:
    def __init__(self, *items: Any):
        self.items = items

    def read(self, reader: _Reader, path: str) -> Tuple[Any, ...]:
        return tuple(item.read(reader, f"{path}[{place}]") for place, item in enumerate(self.items))

    def write(self, value: Any, path: str) -> bytes:
        count = len(self.items)
        _want(type(value) in (tuple, list) and len(value) == count, path, f"{count} items", value)
        parts = enumerate(zip(self.items, value))
        return b"".join(item.write(one, f"{path}[{place}]") for place, (item, one) in parts)


class _Struct:
    def __init__(self, cls: type, *inner: Any):
        self.cls = cls
        self.inner = tuple(zip((field.name for field in fields(cls)), inner))

    def read(self, reader: _Reader, path: str) -> Any:
        return self.cls(*(inner.read(reader, f"{path}.{name}") for name, inner in self.inner))

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) is self.cls, path, f"a {self.cls.__qualname__}", value)
        return b"".join(inner.write(getattr(value, name), f"{path}.{name}") for name, inner in self.inner)


class _Enum:
    """Variants of which some hold something."""

    def __init__(self, name: str, *variants: _Struct):
        self.name, self.variants = name, variants

    def read(self, reader: _Reader, path: str) -> Any:
        begin, number = reader.at, reader.varint(32, path)
        if number >= len(self.variants):
            raise WireError(path, f"{self.name} has no variant {number}", begin)
        variant = self.variants[number]
        return variant.read(reader, f"{path}.{variant.cls.__name__}")

    def write(self, value: Any, path: str) -> bytes:
        for number, variant in enumerate(self.variants):
            if type(value) is variant.cls:
                return _varint(number) + variant.write(value, f"{path}.{variant.cls.__name__}")
        raise _wrong(path, f"a variant of {self.name}", value)


class _Choice:
    """Variants that hold nothing."""

    def __init__(self, cls: Any):
        self.cls = cls

    def read(self, reader: _Reader, path: str) -> Any:
        begin, number = reader.at, reader.varint(32, path)
        if number >= len(self.cls):
            raise WireError(path, f"{self.cls.__name__} has no variant {number}", begin)
        return self.cls(number)

    def write(self, value: Any, path: str) -> bytes:
        _want(type(value) is self.cls, path, f"a {self.cls.__name__}", value)
        return _varint(value)


def _length(reader: _Reader, limit: int, path: str) -> int:
    begin, length = reader.at, reader.varint(64, path)
    if length > limit:
        raise WireError(path, f"a length of {length} where at most {limit} is allowed", begin)
    return length


def _wrong(path: str, wanted: str, value: Any) -> WireError:
    shown = f"{len(value)} bytes" if type(value) is bytes else f"a {type(value).__name__}"
    shown = str(value) if type(value) is int and abs(value) < 1 << 70 else shown
    return WireError(path, f"{wanted} is wanted, found {shown}")


def _want(holds: bool, path: str, wanted: str, value: Any) -> None:
    if not holds:
        raise _wrong(path, wanted, value)


def _find(kind: Any) -> Tuple[str, Any, Optional[int]]:
    name = kind if type(kind) is str else getattr(kind, "__qualname__", "")
    if name not in _TYPES:
        raise TypeError(f"{kind!r} is no type of the wire")
    return (name, *_TYPES[name])


def decode(kind: Any, data: bytes) -> Any:
    """Reads a value from exactly these bytes. `kind` is a class of this module, or the name of a type.

    Raises WireError if the bytes are not the value's one encoding.
    """
    name, codec, limit = _find(kind)
    limit = CONTROL_BYTES_MAX if limit is None else limit
    if len(data) > limit:
        raise WireError(name, f"{len(data)} bytes where at most {limit} are allowed")
    reader = _Reader(bytes(data))
    value = codec.read(reader, name)
    extra = len(reader.data) - reader.at
    if extra:
        raise WireError(name, f"{extra} bytes follow the value", reader.at)
    return value


def encode(kind: Any, value: Any) -> bytes:
    """The encoding of a value. Raises WireError if a part of it is none of its type, or breaks a limit."""
    name, codec, limit = _find(kind)
    data = codec.write(value, name)
    limit = CONTROL_BYTES_MAX if limit is None else limit
    if len(data) > limit:
        raise WireError(name, f"{len(data)} bytes where at most {limit} are allowed")
    return data


class Opened(NamedTuple):
    """An envelope and what it holds. The signature was not checked."""

    envelope: Any
    kind: str
    payload: Any


def open_frame(frame: bytes) -> Opened:
    """Reads a frame as it travels: an envelope, and its payload by its kind. Raises WireError."""
    envelope = decode("Envelope", frame)
    if envelope.kind not in KINDS:
        raise WireError("Envelope.kind", f"this version knows no kind {envelope.kind}")
    kind, payload = KINDS[envelope.kind]
    return Opened(envelope, kind, decode(payload, envelope.payload))


# Most bytes of what has no limit of its own.
CONTROL_BYTES_MAX = 1 << 20
