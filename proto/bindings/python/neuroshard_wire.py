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


@dataclass(frozen=True)
class Activity:
    newest: int
    bits: int


_Activity = _Struct(Activity, _Uint(64), _Uint(128))


Amount = int
_Amount = _Uint(64)


BatchId = int
_BatchId = _Uint(64)


@dataclass(frozen=True)
class Candidate:
    stake: int


_Candidate = _Struct(Candidate, _Uint(64))


class Decline(enum.IntEnum):
    Unwilling = 0
    Taken = 1
    Reserved = 2
    Precedence = 3
    Stages = 4
    Lapsed = 5
    Ahead = 6


_Decline = _Choice(Decline)


class DropReason:
    """One of these."""

    @dataclass(frozen=True)
    class Full:
        pass

    @dataclass(frozen=True)
    class AuthorFull:
        pass

    @dataclass(frozen=True)
    class Taken:
        pass

    @dataclass(frozen=True)
    class TooOld:
        pass

    @dataclass(frozen=True)
    class Forged:
        pass

    @dataclass(frozen=True)
    class Refused:
        why: str


_DropReason = _Enum(
    "DropReason",
    _Struct(DropReason.Full),
    _Struct(DropReason.AuthorFull),
    _Struct(DropReason.Taken),
    _Struct(DropReason.TooOld),
    _Struct(DropReason.Forged),
    _Struct(DropReason.Refused, _Text(160)),
)


F32 = int
_F32 = _Uint(32)


class FetchFault(enum.IntEnum):
    Unreachable = 0
    Missing = 1
    Damaged = 2
    Full = 3


_FetchFault = _Choice(FetchFault)


class Arrival:
    """One of these."""

    @dataclass(frozen=True)
    class Ok:
        pass

    @dataclass(frozen=True)
    class Err:
        value: FetchFault


_Arrival = _Enum(
    "Arrival",
    _Struct(Arrival.Ok),
    _Struct(Arrival.Err, _FetchFault),
)


Hash = bytes
_Hash = _Raw(32)


class JobKind(enum.IntEnum):
    Init = 0
    Load = 1
    Benchmark = 2
    Train = 3
    Step = 4
    Evaluate = 5
    Snapshot = 6
    Forward = 7
    Turn = 8
    Backward = 9
    Norms = 10


_JobKind = _Choice(JobKind)


JournalSeq = int
_JournalSeq = _Uint(64)


@dataclass(frozen=True)
class LayerBlobs:
    root: Hash
    weights: Hash
    moments: Hash


_LayerBlobs = _Struct(LayerBlobs, _Hash, _Hash, _Hash)


LayerIndex = int
_LayerIndex = _Uint(32)


@dataclass(frozen=True)
class LayerRange:
    start: int
    end: int


_LayerRange = _Struct(LayerRange, _Uint(32), _Uint(32))


@dataclass(frozen=True)
class Lock:
    view: int
    block: Hash


_Lock = _Struct(Lock, _Uint(64), _Hash)


@dataclass(frozen=True)
class Micro:
    batch: BatchId
    index: int


_Micro = _Struct(Micro, _BatchId, _Uint(32))


class Mode(enum.IntEnum):
    Solo = 0
    Pipeline = 1
    Async = 2
    Data = 3
    Verify = 4
    Inference = 5
    Idle = 6


_Mode = _Choice(Mode)


class ModeReason:
    """One of these."""

    @dataclass(frozen=True)
    class Alone:
        pass

    @dataclass(frozen=True)
    class Operator:
        pass

    @dataclass(frozen=True)
    class Planned:
        pass

    @dataclass(frozen=True)
    class Member:
        pass

    @dataclass(frozen=True)
    class StandsBy:
        pass

    @dataclass(frozen=True)
    class Looks:
        pass

    @dataclass(frozen=True)
    class NoTier:
        pass

    @dataclass(frozen=True)
    class SlowTier:
        pass

    @dataclass(frozen=True)
    class HoldsLayers:
        pass

    @dataclass(frozen=True)
    class TooLittleMemory:
        needed: int
        allowed: int


_ModeReason = _Enum(
    "ModeReason",
    _Struct(ModeReason.Alone),
    _Struct(ModeReason.Operator),
    _Struct(ModeReason.Planned),
    _Struct(ModeReason.Member),
    _Struct(ModeReason.StandsBy),
    _Struct(ModeReason.Looks),
    _Struct(ModeReason.NoTier),
    _Struct(ModeReason.SlowTier),
    _Struct(ModeReason.HoldsLayers),
    _Struct(ModeReason.TooLittleMemory, _Uint(64), _Uint(64)),
)


@dataclass(frozen=True)
class ModelSpec:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    context: int
    vocab: int
    rope_theta: int
    norm_eps_pico: int


_ModelSpec = _Struct(ModelSpec, _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32))


NetworkId = Hash
_NetworkId = _Hash


@dataclass(frozen=True)
class Envelope:
    network: NetworkId
    wire_version: int
    kind: int
    payload: bytes
    signature: bytes


_Envelope = _Struct(Envelope, _NetworkId, _Uint(16), _Uint(16), _Blob(1048320), _Raw(64))


NodeId = bytes
_NodeId = _Raw(32)


@dataclass(frozen=True)
class Beacon:
    node: NodeId
    addresses: Tuple[str, ...]


_Beacon = _Struct(Beacon, _NodeId, _List(_Text(128), 4))


@dataclass(frozen=True)
class BlocksWanted:
    node: NodeId
    from_: int


_BlocksWanted = _Struct(BlocksWanted, _NodeId, _Uint(64))


@dataclass(frozen=True)
class CandidatesPiece:
    prefix: Hash
    siblings: Tuple[Hash, ...]
    entries: Tuple[Tuple[NodeId, Candidate], ...]


_CandidatesPiece = _Struct(CandidatesPiece, _Hash, _List(_Hash, 256), _List(_Tuple(_NodeId, _Candidate), 512))


@dataclass(frozen=True)
class Endorsement:
    validator: NodeId
    lock: Optional[Lock]
    signature: bytes


_Endorsement = _Struct(Endorsement, _NodeId, _Option(_Lock), _Raw(64))


@dataclass(frozen=True)
class Member:
    node: NodeId
    stages: LayerRange


_Member = _Struct(Member, _NodeId, _LayerRange)


@dataclass(frozen=True)
class NodeParams:
    puzzle_bits: int
    activity_epochs: int
    attesters: int
    messages_unbonded: int
    messages_per_bond: int
    messages_max: int


_NodeParams = _Struct(NodeParams, _Uint(32), _Uint(64), _Uint(32), _Uint(32), _Uint(32), _Uint(32))


OwnerId = bytes
_OwnerId = _Raw(32)


@dataclass(frozen=True)
class Allocation:
    owner: OwnerId
    amount: Amount


_Allocation = _Struct(Allocation, _OwnerId, _Amount)


@dataclass(frozen=True)
class Founder:
    owner: OwnerId
    node: NodeId
    power: int


_Founder = _Struct(Founder, _OwnerId, _NodeId, _Uint(32))


class Phase(enum.IntEnum):
    Genesis = 0
    Micro = 1
    Small = 2
    Medium = 3
    Growing = 4
    Large = 5
    Massive = 6


_Phase = _Choice(Phase)


@dataclass(frozen=True)
class Plan:
    members: Tuple[Member, ...]
    snapshot_steps: int


_Plan = _Struct(Plan, _List(_Member, 16), _Uint(32))


@dataclass(frozen=True)
class Position:
    batch: BatchId
    tokens: int
    voids: int


_Position = _Struct(Position, _BatchId, _Uint(64), _Uint(64))


@dataclass(frozen=True)
class Progress:
    batch: BatchId
    tokens: int
    voids: int
    trained_ms: int


_Progress = _Struct(Progress, _BatchId, _Uint(64), _Uint(64), _Uint(64))


@dataclass(frozen=True)
class Proof:
    index: int
    count: int
    hashes: Tuple[Hash, ...]


_Proof = _Struct(Proof, _Uint(64), _Uint(64), _List(_Hash, 40))


PublicKey = bytes
_PublicKey = _Raw(32)


class Author:
    """One of these."""

    @dataclass(frozen=True)
    class Account:
        owner: OwnerId
        key: PublicKey
        sequence: int

    @dataclass(frozen=True)
    class Node:
        node: NodeId
        epoch: int


_Author = _Enum(
    "Author",
    _Struct(Author.Account, _OwnerId, _PublicKey, _Uint(64)),
    _Struct(Author.Node, _NodeId, _Uint(64)),
)


QuorumId = Hash
_QuorumId = _Hash


Ratio = int
_Ratio = _Uint(32)


@dataclass(frozen=True)
class MoneyParams:
    fee: Ratio
    fee_min: Amount
    registration_fee: Amount
    bond_min: Amount
    unbonding_ms: int


_MoneyParams = _Struct(MoneyParams, _Ratio, _Amount, _Amount, _Amount, _Uint(64))


@dataclass(frozen=True)
class Operator:
    memory_bytes: int
    disk_bytes: int
    mode: Optional[Mode]
    steps: Optional[int]
    snapshot_every_ms: int
    snapshot_every_steps: int
    snapshot_share: Ratio
    snapshots_kept: int
    evaluate_every_steps: int
    evaluate_share: Ratio


_Operator = _Struct(Operator, _Uint(64), _Uint(64), _Option(_Mode), _Option(_Uint(64)), _Uint(64), _Uint(64), _Ratio, _Uint(32), _Uint(64), _Ratio)


@dataclass(frozen=True)
class PhaseRow:
    nodes: int
    phase: Phase
    quorum_size: int
    replicas: int
    sync_interval: int
    audit_floor: Ratio
    session_s: int


_PhaseRow = _Struct(PhaseRow, _Uint(64), _Phase, _Uint(32), _Uint(32), _Uint(32), _Ratio, _Uint(32))


@dataclass(frozen=True)
class QuorumParams:
    active_max: int
    lifetime_ms: int
    renewal: Ratio
    acceptance_ms: int
    uptime: Ratio


_QuorumParams = _Struct(QuorumParams, _Uint(32), _Uint(64), _Ratio, _Uint(64), _Ratio)


RequestId = int
_RequestId = _Uint(64)


@dataclass(frozen=True)
class Sample:
    shard: Hash
    offset: int


_Sample = _Struct(Sample, _Hash, _Uint(32))


@dataclass(frozen=True)
class Schedule:
    rate: F32
    beta1: F32
    beta1_rest: F32
    beta2: F32
    beta2_rest: F32
    correction1: F32
    correction2: F32
    epsilon: F32
    weight_decay: F32
    clip: F32


_Schedule = _Struct(Schedule, _F32, _F32, _F32, _F32, _F32, _F32, _F32, _F32, _F32, _F32)


@dataclass(frozen=True)
class Seats:
    seats: Tuple[Tuple[NodeId, int], ...]
    quorum: int
    seed: Hash


_Seats = _Struct(Seats, _List(_Tuple(_NodeId, _Uint(64)), 512), _Uint(64), _Hash)


class NextSeats:
    """One of these."""

    @dataclass(frozen=True)
    class Same:
        pass

    @dataclass(frozen=True)
    class Reseeded:
        value: Hash

    @dataclass(frozen=True)
    class Other:
        value: Seats


_NextSeats = _Enum(
    "NextSeats",
    _Struct(NextSeats.Same),
    _Struct(NextSeats.Reseeded, _Hash),
    _Struct(NextSeats.Other, _Seats),
)


@dataclass(frozen=True)
class Shard:
    hash: Hash
    tokens: int
    held_out: bool


_Shard = _Struct(Shard, _Hash, _Uint(32), _Flag())


@dataclass(frozen=True)
class Manifest:
    tokenizer: Hash
    text_bytes: int
    shards: Tuple[Shard, ...]


_Manifest = _Struct(Manifest, _Hash, _Uint(64), _List(_Shard, 16384))


class Standing(enum.IntEnum):
    Good = 0
    Revoked = 1
    Convicted = 2


_Standing = _Choice(Standing)


class StatePlace:
    """One of these."""

    @dataclass(frozen=True)
    class Block:
        pass

    @dataclass(frozen=True)
    class Modules:
        pass

    @dataclass(frozen=True)
    class Accounts:
        value: Hash

    @dataclass(frozen=True)
    class Nodes:
        value: Hash

    @dataclass(frozen=True)
    class Candidates:
        value: Hash

    @dataclass(frozen=True)
    class Frozen:
        value: Hash

    @dataclass(frozen=True)
    class Quorums:
        value: Hash

    @dataclass(frozen=True)
    class Stages:
        value: Hash


_StatePlace = _Enum(
    "StatePlace",
    _Struct(StatePlace.Block),
    _Struct(StatePlace.Modules),
    _Struct(StatePlace.Accounts, _Hash),
    _Struct(StatePlace.Nodes, _Hash),
    _Struct(StatePlace.Candidates, _Hash),
    _Struct(StatePlace.Frozen, _Hash),
    _Struct(StatePlace.Quorums, _Hash),
    _Struct(StatePlace.Stages, _Hash),
)


@dataclass(frozen=True)
class StatePiece:
    node: NodeId
    height: int
    place: StatePlace
    piece: Optional[bytes]


_StatePiece = _Struct(StatePiece, _NodeId, _Uint(64), _StatePlace, _Option(_Blob(262144)))


@dataclass(frozen=True)
class StateWanted:
    node: NodeId
    height: int
    place: StatePlace


_StateWanted = _Struct(StateWanted, _NodeId, _Uint(64), _StatePlace)


class Statement:
    """One of these."""

    @dataclass(frozen=True)
    class Notarize:
        height: int
        view: int
        block: Hash

    @dataclass(frozen=True)
    class Nullify:
        height: int
        view: int
        lock: Optional[Lock]

    @dataclass(frozen=True)
    class Finalize:
        height: int
        view: int
        block: Hash


_Statement = _Enum(
    "Statement",
    _Struct(Statement.Notarize, _Uint(64), _Uint(64), _Hash),
    _Struct(Statement.Nullify, _Uint(64), _Uint(64), _Option(_Lock)),
    _Struct(Statement.Finalize, _Uint(64), _Uint(64), _Hash),
)


Step = int
_Step = _Uint(64)


@dataclass(frozen=True)
class Anchor:
    quorum: QuorumId
    step: Step
    position: Position


_Anchor = _Struct(Anchor, _QuorumId, _Step, _Position)


class Fault:
    """One of these."""

    @dataclass(frozen=True)
    class BlobMissing:
        hash: Hash

    @dataclass(frozen=True)
    class BlobDamaged:
        hash: Hash

    @dataclass(frozen=True)
    class RootMismatch:
        expected: Hash
        found: Hash

    @dataclass(frozen=True)
    class WrongStep:
        expected: Step
        at: Optional[Step]

    @dataclass(frozen=True)
    class BadJob:
        why: str

    @dataclass(frozen=True)
    class DiskFull:
        needed: int

    @dataclass(frozen=True)
    class Store:
        why: str

    @dataclass(frozen=True)
    class Device:
        why: str


_Fault = _Enum(
    "Fault",
    _Struct(Fault.BlobMissing, _Hash),
    _Struct(Fault.BlobDamaged, _Hash),
    _Struct(Fault.RootMismatch, _Hash, _Hash),
    _Struct(Fault.WrongStep, _Step, _Option(_Step)),
    _Struct(Fault.BadJob, _Text(200)),
    _Struct(Fault.DiskFull, _Uint(64)),
    _Struct(Fault.Store, _Text(200)),
    _Struct(Fault.Device, _Text(200)),
)


@dataclass(frozen=True)
class Post:
    anchor: Anchor
    node: NodeId
    blobs: LayerBlobs


_Post = _Struct(Post, _Anchor, _NodeId, _LayerBlobs)


@dataclass(frozen=True)
class Snapshot:
    step: Step
    root: Hash
    layers: Tuple[LayerBlobs, ...]
    bytes: int


_Snapshot = _Struct(Snapshot, _Step, _Hash, _List(_LayerBlobs, 1025), _Uint(64))


class Job:
    """One of these."""

    @dataclass(frozen=True)
    class Init:
        model: ModelSpec
        range: LayerRange
        seed: Hash

    @dataclass(frozen=True)
    class Load:
        model: ModelSpec
        range: LayerRange
        snapshot: Snapshot

    @dataclass(frozen=True)
    class Benchmark:
        model: ModelSpec
        sequence: int
        warmup: int
        runs: int

    @dataclass(frozen=True)
    class Train:
        step: Step
        batch: BatchId
        fresh: bool
        sequence: int
        token_weight: F32
        samples: Tuple[Sample, ...]

    @dataclass(frozen=True)
    class Step:
        step: Step
        token_weight: F32
        squared_norms: Tuple[F32, ...]
        schedule: Schedule

    @dataclass(frozen=True)
    class Evaluate:
        step: Step
        sequence: int
        samples: Tuple[Sample, ...]

    @dataclass(frozen=True)
    class Snapshot:
        step: Step

    @dataclass(frozen=True)
    class Forward:
        step: Step
        micro: Micro
        fresh: bool
        sequence: int
        sample: Sample
        input: Optional[Hash]

    @dataclass(frozen=True)
    class Turn:
        step: Step
        micro: Micro
        fresh: bool
        sequence: int
        sample: Sample
        input: Optional[Hash]

    @dataclass(frozen=True)
    class Backward:
        step: Step
        micro: Micro
        gradient: Hash

    @dataclass(frozen=True)
    class Norms:
        step: Step
        token_weight: F32


_Job = _Enum(
    "Job",
    _Struct(Job.Init, _ModelSpec, _LayerRange, _Hash),
    _Struct(Job.Load, _ModelSpec, _LayerRange, _Snapshot),
    _Struct(Job.Benchmark, _ModelSpec, _Uint(32), _Uint(32), _Uint(32)),
    _Struct(Job.Train, _Step, _BatchId, _Flag(), _Uint(32), _F32, _List(_Sample, 256)),
    _Struct(Job.Step, _Step, _F32, _List(_F32, 1025), _Schedule),
    _Struct(Job.Evaluate, _Step, _Uint(32), _List(_Sample, 256)),
    _Struct(Job.Snapshot, _Step),
    _Struct(Job.Forward, _Step, _Micro, _Flag(), _Uint(32), _Sample, _Option(_Hash)),
    _Struct(Job.Turn, _Step, _Micro, _Flag(), _Uint(32), _Sample, _Option(_Hash)),
    _Struct(Job.Backward, _Step, _Micro, _Hash),
    _Struct(Job.Norms, _Step, _F32),
)


@dataclass(frozen=True)
class SavedState:
    range: LayerRange
    snapshot: Snapshot
    progress: Progress


_SavedState = _Struct(SavedState, _LayerRange, _Snapshot, _Progress)


@dataclass(frozen=True)
class Stage:
    posts: Tuple[Post, ...]


_Stage = _Struct(Stage, _List(_Post, 3))


@dataclass(frozen=True)
class StagePath:
    found: Optional[Tuple[LayerIndex, Stage]]
    siblings: Tuple[Hash, ...]


_StagePath = _Struct(StagePath, _Option(_Tuple(_LayerIndex, _Stage)), _List(_Hash, 256))


@dataclass(frozen=True)
class StageProof:
    entry: StagePath
    module: bytes
    digests: Proof


_StageProof = _Struct(StageProof, _StagePath, _Blob(128), _Proof)


@dataclass(frozen=True)
class StagesPiece:
    prefix: Hash
    siblings: Tuple[Hash, ...]
    entries: Tuple[Tuple[LayerIndex, Stage], ...]


_StagesPiece = _Struct(StagesPiece, _Hash, _List(_Hash, 256), _List(_Tuple(_LayerIndex, _Stage), 512))


@dataclass(frozen=True)
class StepsWanted:
    node: NodeId
    above: int


_StepsWanted = _Struct(StepsWanted, _NodeId, _Uint(64))


class Subject:
    """One of these."""

    @dataclass(frozen=True)
    class Notarized:
        height: int
        view: int
        block: Hash

    @dataclass(frozen=True)
    class Nullified:
        height: int
        view: int

    @dataclass(frozen=True)
    class Finalized:
        height: int
        view: int
        block: Hash


_Subject = _Enum(
    "Subject",
    _Struct(Subject.Notarized, _Uint(64), _Uint(64), _Hash),
    _Struct(Subject.Nullified, _Uint(64), _Uint(64)),
    _Struct(Subject.Finalized, _Uint(64), _Uint(64), _Hash),
)


@dataclass(frozen=True)
class Certificate:
    subject: Subject
    endorsements: Tuple[Endorsement, ...]


_Certificate = _Struct(Certificate, _Subject, _List(_Endorsement, 512))


@dataclass(frozen=True)
class Ballot:
    statement: Statement
    proofs: Tuple[Certificate, ...]


_Ballot = _Struct(Ballot, _Statement, _List(_Certificate, 3))


@dataclass(frozen=True)
class CarriedCertificate:
    node: NodeId
    what: Certificate


_CarriedCertificate = _Struct(CarriedCertificate, _NodeId, _Certificate)


@dataclass(frozen=True)
class Successes:
    bits: int
    receipts: int


_Successes = _Struct(Successes, _Uint(128), _Uint(8))


class Tier(enum.IntEnum):
    T1 = 0
    T2 = 1
    T3 = 2
    T4 = 3
    T5 = 4


_Tier = _Choice(Tier)


@dataclass(frozen=True)
class Description:
    epoch: int
    memory_bytes: int
    storage_bytes: int
    tier: Tier
    held: LayerRange


_Description = _Struct(Description, _Uint(64), _Uint(64), _Uint(64), _Tier, _LayerRange)


@dataclass(frozen=True)
class Node:
    owner: OwnerId
    standing: Standing
    since: int
    description: Optional[Description]
    activity: Activity
    successes: Successes
    sent: Tuple[int, int]
    witness: Optional[Tuple[int, NodeId]]
    quorum: Optional[QuorumId]


_Node = _Struct(Node, _OwnerId, _Standing, _Uint(64), _Option(_Description), _Activity, _Successes, _Tuple(_Uint(64), _Uint(32)), _Option(_Tuple(_Uint(64), _NodeId)), _Option(_QuorumId))


@dataclass(frozen=True)
class NodePath:
    found: Optional[Tuple[NodeId, Node]]
    siblings: Tuple[Hash, ...]


_NodePath = _Struct(NodePath, _Option(_Tuple(_NodeId, _Node)), _List(_Hash, 256))


@dataclass(frozen=True)
class NodeProof:
    entry: NodePath
    module: bytes
    digests: Proof


_NodeProof = _Struct(NodeProof, _NodePath, _Blob(128), _Proof)


@dataclass(frozen=True)
class NodesPiece:
    prefix: Hash
    siblings: Tuple[Hash, ...]
    entries: Tuple[Tuple[NodeId, Node], ...]


_NodesPiece = _Struct(NodesPiece, _Hash, _List(_Hash, 256), _List(_Tuple(_NodeId, _Node), 512))


Time = int
_Time = _Uint(64)


@dataclass(frozen=True)
class Header:
    network: NetworkId
    height: int
    parent: Hash
    time: Time
    proposer: NodeId
    transactions: Hash
    state: Hash
    seats: Hash
    beacon: Hash
    finality: Hash


_Header = _Struct(Header, _NetworkId, _Uint(64), _Hash, _Time, _NodeId, _Hash, _Hash, _Hash, _Hash, _Hash)


@dataclass(frozen=True)
class Advance:
    header: Header
    certificate: Certificate
    deciders: Optional[Tuple[Header, Seats]]
    next: NextSeats


_Advance = _Struct(Advance, _Header, _Certificate, _Option(_Tuple(_Header, _Seats)), _NextSeats)


@dataclass(frozen=True)
class Heartbeat:
    node: NodeId
    time: Time
    quorum: Optional[QuorumId]
    queue_depth: int
    free_bytes: int
    step: Step


_Heartbeat = _Struct(Heartbeat, _NodeId, _Time, _Option(_QuorumId), _Uint(32), _Uint(64), _Step)


class PeerFault:
    """One of these."""

    @dataclass(frozen=True)
    class OtherNetwork:
        node: NodeId

    @dataclass(frozen=True)
    class OwnName:
        pass

    @dataclass(frozen=True)
    class Clock:
        node: NodeId
        theirs: Time

    @dataclass(frozen=True)
    class TooManyPeers:
        node: NodeId

    @dataclass(frozen=True)
    class Leader:
        node: NodeId
        view: int

    @dataclass(frozen=True)
    class BlockTime:
        node: NodeId
        theirs: Time

    @dataclass(frozen=True)
    class Block:
        node: NodeId
        height: int

    @dataclass(frozen=True)
    class Undecided:
        node: NodeId
        height: int

    @dataclass(frozen=True)
    class Steps:
        node: NodeId
        height: int

    @dataclass(frozen=True)
    class State:
        node: NodeId
        height: int

    @dataclass(frozen=True)
    class OtherQuorum:
        node: NodeId


_PeerFault = _Enum(
    "PeerFault",
    _Struct(PeerFault.OtherNetwork, _NodeId),
    _Struct(PeerFault.OwnName),
    _Struct(PeerFault.Clock, _NodeId, _Time),
    _Struct(PeerFault.TooManyPeers, _NodeId),
    _Struct(PeerFault.Leader, _NodeId, _Uint(64)),
    _Struct(PeerFault.BlockTime, _NodeId, _Time),
    _Struct(PeerFault.Block, _NodeId, _Uint(64)),
    _Struct(PeerFault.Undecided, _NodeId, _Uint(64)),
    _Struct(PeerFault.Steps, _NodeId, _Uint(64)),
    _Struct(PeerFault.State, _NodeId, _Uint(64)),
    _Struct(PeerFault.OtherQuorum, _NodeId),
)


@dataclass(frozen=True)
class Quorum:
    plan: Plan
    batches: int
    valid_until: Time
    first_ms: int
    began_ms: int
    ends_ms: int
    session_ms: int
    settled: bool


_Quorum = _Struct(Quorum, _Plan, _Uint(32), _Time, _Uint(64), _Uint(64), _Uint(64), _Uint(64), _Flag())


@dataclass(frozen=True)
class QuorumPath:
    found: Optional[Tuple[QuorumId, Quorum]]
    siblings: Tuple[Hash, ...]


_QuorumPath = _Struct(QuorumPath, _Option(_Tuple(_QuorumId, _Quorum)), _List(_Hash, 256))


@dataclass(frozen=True)
class QuorumProof:
    entry: QuorumPath
    module: bytes
    digests: Proof


_QuorumProof = _Struct(QuorumProof, _QuorumPath, _Blob(128), _Proof)


@dataclass(frozen=True)
class QuorumsPiece:
    prefix: Hash
    siblings: Tuple[Hash, ...]
    entries: Tuple[Tuple[QuorumId, Quorum], ...]


_QuorumsPiece = _Struct(QuorumsPiece, _Hash, _List(_Hash, 256), _List(_Tuple(_QuorumId, _Quorum), 512))


class Recovery:
    """One of these."""

    @dataclass(frozen=True)
    class Later:
        at: Time

    @dataclass(frozen=True)
    class Reload:
        step: Step

    @dataclass(frozen=True)
    class Stop:
        pass


_Recovery = _Enum(
    "Recovery",
    _Struct(Recovery.Later, _Time),
    _Struct(Recovery.Reload, _Step),
    _Struct(Recovery.Stop),
)


class Event:
    """One of these."""

    @dataclass(frozen=True)
    class TierMeasured:
        layer_us: int
        tier: Tier

    @dataclass(frozen=True)
    class ModeChosen:
        mode: Mode
        reason: ModeReason

    @dataclass(frozen=True)
    class StateReady:
        step: Step
        root: Hash

    @dataclass(frozen=True)
    class Stepped:
        step: Step
        batch: BatchId
        loss_micro: int
        tokens: int
        norm: F32
        rate: F32

    @dataclass(frozen=True)
    class BatchVoid:
        step: Step
        batch: BatchId
        voids: int

    @dataclass(frozen=True)
    class HeldOut:
        step: Step
        loss_micro: int
        tokens: int

    @dataclass(frozen=True)
    class Saved:
        step: Step
        root: Hash
        bytes: int

    @dataclass(frozen=True)
    class JobFailed:
        job: JobKind
        fault: Fault
        then: Recovery

    @dataclass(frozen=True)
    class JobLate:
        job: JobKind

    @dataclass(frozen=True)
    class Rejected:
        reject: PeerFault

    @dataclass(frozen=True)
    class PeerUp:
        node: NodeId

    @dataclass(frozen=True)
    class PeerDown:
        node: NodeId

    @dataclass(frozen=True)
    class Diverged:
        step: Step
        voids: int

    @dataclass(frozen=True)
    class StepLimit:
        step: Step

    @dataclass(frozen=True)
    class Stopped:
        step: Step
        saved: Optional[Step]

    @dataclass(frozen=True)
    class BlockDecided:
        height: int
        id: Hash
        time: Time
        transactions: int
        root: Hash

    @dataclass(frozen=True)
    class TransactionDropped:
        transaction: Hash
        why: DropReason

    @dataclass(frozen=True)
    class Equivocation:
        validator: NodeId

    @dataclass(frozen=True)
    class ChainBroken:
        height: int
        id: Hash

    @dataclass(frozen=True)
    class StateTaken:
        height: int
        id: Hash
        time: Time
        root: Hash

    @dataclass(frozen=True)
    class QuorumProposed:
        quorum: QuorumId
        members: int
        batch_us: int

    @dataclass(frozen=True)
    class QuorumDeclined:
        quorum: QuorumId
        node: NodeId
        why: Decline

    @dataclass(frozen=True)
    class QuorumJoined:
        quorum: QuorumId
        members: int
        stages: LayerRange

    @dataclass(frozen=True)
    class QuorumLeft:
        pass

    @dataclass(frozen=True)
    class StagesMissing:
        step: Step
        stages: LayerRange
        blob: Hash
        fault: FetchFault

    @dataclass(frozen=True)
    class QuorumBegan:
        quorum: QuorumId
        term: int
        step: Step

    @dataclass(frozen=True)
    class Leaving:
        quorum: Optional[QuorumId]


_Event = _Enum(
    "Event",
    _Struct(Event.TierMeasured, _Uint(64), _Tier),
    _Struct(Event.ModeChosen, _Mode, _ModeReason),
    _Struct(Event.StateReady, _Step, _Hash),
    _Struct(Event.Stepped, _Step, _BatchId, _Int(64), _Uint(64), _F32, _F32),
    _Struct(Event.BatchVoid, _Step, _BatchId, _Uint(64)),
    _Struct(Event.HeldOut, _Step, _Int(64), _Uint(64)),
    _Struct(Event.Saved, _Step, _Hash, _Uint(64)),
    _Struct(Event.JobFailed, _JobKind, _Fault, _Recovery),
    _Struct(Event.JobLate, _JobKind),
    _Struct(Event.Rejected, _PeerFault),
    _Struct(Event.PeerUp, _NodeId),
    _Struct(Event.PeerDown, _NodeId),
    _Struct(Event.Diverged, _Step, _Uint(64)),
    _Struct(Event.StepLimit, _Step),
    _Struct(Event.Stopped, _Step, _Option(_Step)),
    _Struct(Event.BlockDecided, _Uint(64), _Hash, _Time, _Uint(32), _Hash),
    _Struct(Event.TransactionDropped, _Hash, _DropReason),
    _Struct(Event.Equivocation, _NodeId),
    _Struct(Event.ChainBroken, _Uint(64), _Hash),
    _Struct(Event.StateTaken, _Uint(64), _Hash, _Time, _Hash),
    _Struct(Event.QuorumProposed, _QuorumId, _Uint(32), _Uint(64)),
    _Struct(Event.QuorumDeclined, _QuorumId, _NodeId, _Decline),
    _Struct(Event.QuorumJoined, _QuorumId, _Uint(32), _LayerRange),
    _Struct(Event.QuorumLeft),
    _Struct(Event.StagesMissing, _Step, _LayerRange, _Hash, _FetchFault),
    _Struct(Event.QuorumBegan, _QuorumId, _Uint(64), _Step),
    _Struct(Event.Leaving, _Option(_QuorumId)),
)


@dataclass(frozen=True)
class Steps:
    node: NodeId
    steps: Tuple[Advance, ...]
    arrives: bool


_Steps = _Struct(Steps, _NodeId, _List(_Advance, 16), _Flag())


@dataclass(frozen=True)
class Terms:
    plan: Plan
    batches: int
    ends: Tuple[QuorumId, ...]
    valid_until: Time


_Terms = _Struct(Terms, _Plan, _Uint(32), _List(_QuorumId, 16), _Time)


class FormingWord:
    """One of these."""

    @dataclass(frozen=True)
    class Ask:
        question: int

    @dataclass(frozen=True)
    class Offer:
        question: int
        layer_us: int
        declines: Optional[Decline]

    @dataclass(frozen=True)
    class Propose:
        terms: Terms

    @dataclass(frozen=True)
    class Accept:
        quorum: QuorumId
        signature: bytes

    @dataclass(frozen=True)
    class Decline:
        quorum: QuorumId
        why: Decline


_FormingWord = _Enum(
    "FormingWord",
    _Struct(FormingWord.Ask, _Uint(64)),
    _Struct(FormingWord.Offer, _Uint(64), _Uint(64), _Option(_Decline)),
    _Struct(FormingWord.Propose, _Terms),
    _Struct(FormingWord.Accept, _QuorumId, _Raw(64)),
    _Struct(FormingWord.Decline, _QuorumId, _Decline),
)


@dataclass(frozen=True)
class FormingMessage:
    node: NodeId
    word: FormingWord


_FormingMessage = _Struct(FormingMessage, _NodeId, _FormingWord)


class Topic(enum.IntEnum):
    Transactions = 0
    Agreement = 1
    Blocks = 2


_Topic = _Choice(Topic)


class Output:
    """One of these."""

    @dataclass(frozen=True)
    class Persist:
        seq: JournalSeq
        record: bytes

    @dataclass(frozen=True)
    class Compute:
        id: RequestId
        job: Job
        deadline: Time

    @dataclass(frozen=True)
    class Cancel:
        id: RequestId

    @dataclass(frozen=True)
    class Drop:
        hash: Hash

    @dataclass(frozen=True)
    class Trim:
        before: JournalSeq

    @dataclass(frozen=True)
    class Event:
        value: Event

    @dataclass(frozen=True)
    class Sign:
        id: RequestId
        digest: Hash

    @dataclass(frozen=True)
    class Send:
        to: NodeId
        message: Envelope

    @dataclass(frozen=True)
    class Publish:
        topic: Topic
        message: Envelope

    @dataclass(frozen=True)
    class Fetch:
        id: RequestId
        hash: Hash
        from_: NodeId
        keep: bool


_Output = _Enum(
    "Output",
    _Struct(Output.Persist, _JournalSeq, _Blob(263168)),
    _Struct(Output.Compute, _RequestId, _Job, _Time),
    _Struct(Output.Cancel, _RequestId),
    _Struct(Output.Drop, _Hash),
    _Struct(Output.Trim, _JournalSeq),
    _Struct(Output.Event, _Event),
    _Struct(Output.Sign, _RequestId, _Hash),
    _Struct(Output.Send, _NodeId, _Envelope),
    _Struct(Output.Publish, _Topic, _Envelope),
    _Struct(Output.Fetch, _RequestId, _Hash, _NodeId, _Flag()),
)


@dataclass(frozen=True)
class TrainSpec:
    batch: int
    sequence: int
    peak_rate_nano: int
    warmup: int
    horizon: int
    floor_ppm: int
    beta1_ppm: int
    beta2_ppm: int
    weight_decay_ppm: int
    epsilon_pico: int
    clip_ppm: int


_TrainSpec = _Struct(TrainSpec, _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32), _Uint(32))


@dataclass(frozen=True)
class Unbonding:
    amount: Amount
    free_at_ms: int


_Unbonding = _Struct(Unbonding, _Amount, _Uint(64))


@dataclass(frozen=True)
class Account:
    balance: Amount
    bond: Amount
    locked: Amount
    unbonding: Tuple[Unbonding, ...]
    sequence: int
    key: PublicKey
    nodes: int
    validator: Optional[NodeId]


_Account = _Struct(Account, _Amount, _Amount, _Amount, _List(_Unbonding, 8), _Uint(64), _PublicKey, _Uint(32), _Option(_NodeId))


@dataclass(frozen=True)
class AccountPath:
    found: Optional[Tuple[OwnerId, Account]]
    siblings: Tuple[Hash, ...]


_AccountPath = _Struct(AccountPath, _Option(_Tuple(_OwnerId, _Account)), _List(_Hash, 256))


@dataclass(frozen=True)
class AccountProof:
    entry: AccountPath
    module: bytes
    digests: Proof


_AccountProof = _Struct(AccountProof, _AccountPath, _Blob(128), _Proof)


@dataclass(frozen=True)
class AccountsPiece:
    prefix: Hash
    siblings: Tuple[Hash, ...]
    entries: Tuple[Tuple[OwnerId, Account], ...]


_AccountsPiece = _Struct(AccountsPiece, _Hash, _List(_Hash, 256), _List(_Tuple(_OwnerId, _Account), 512))


class Chunk:
    """One of these."""

    @dataclass(frozen=True)
    class Modules:
        value: Tuple[bytes, ...]

    @dataclass(frozen=True)
    class Accounts:
        value: AccountsPiece

    @dataclass(frozen=True)
    class Nodes:
        value: NodesPiece

    @dataclass(frozen=True)
    class Candidates:
        value: CandidatesPiece

    @dataclass(frozen=True)
    class Frozen:
        value: CandidatesPiece

    @dataclass(frozen=True)
    class Quorums:
        value: QuorumsPiece

    @dataclass(frozen=True)
    class Stages:
        value: StagesPiece


_Chunk = _Enum(
    "Chunk",
    _Struct(Chunk.Modules, _List(_Blob(262144), 64)),
    _Struct(Chunk.Accounts, _AccountsPiece),
    _Struct(Chunk.Nodes, _NodesPiece),
    _Struct(Chunk.Candidates, _CandidatesPiece),
    _Struct(Chunk.Frozen, _CandidatesPiece),
    _Struct(Chunk.Quorums, _QuorumsPiece),
    _Struct(Chunk.Stages, _StagesPiece),
)


@dataclass(frozen=True)
class ValidatorParams:
    founders_fade: Amount
    voters_max: int
    seats: int
    seats_quorum: int
    committee_epochs: int
    silence_epochs: int
    beacon_bar_epochs: int


_ValidatorParams = _Struct(ValidatorParams, _Amount, _Uint(32), _Uint(32), _Uint(32), _Uint(64), _Uint(64), _Uint(64))


@dataclass(frozen=True)
class Params:
    phases: Tuple[PhaseRow, ...]
    tier_bounds_us: Tuple[int, ...]
    benchmark_period_ms: int
    benchmark_sequence: int
    benchmark_warmup: int
    benchmark_runs: int
    holding_share: Ratio
    heartbeat_ms: int
    degraded_ms: int
    offline_ms: int
    epoch_ms: int
    block_time_step_ms: int
    money: MoneyParams
    nodes: NodeParams
    validators: ValidatorParams
    quorums: QuorumParams


_Params = _Struct(Params, _Tuple(*[_PhaseRow] * 8), _Tuple(*[_Uint(64)] * 4), _Uint(64), _Uint(32), _Uint(32), _Uint(32), _Ratio, _Uint(64), _Uint(64), _Uint(64), _Uint(64), _Uint(64), _MoneyParams, _NodeParams, _ValidatorParams, _QuorumParams)


@dataclass(frozen=True)
class Genesis:
    created_unix_ms: int
    seed: Hash
    model: ModelSpec
    training: TrainSpec
    params: Params
    manifest: Hash
    founders: Tuple[Founder, ...]
    allocations: Tuple[Allocation, ...]
    first: Optional[Snapshot]


_Genesis = _Struct(Genesis, _Uint(64), _Hash, _ModelSpec, _TrainSpec, _Params, _Hash, _List(_Founder, 256), _List(_Allocation, 4096), _Option(_Snapshot))


@dataclass(frozen=True)
class Config:
    genesis: Genesis
    manifest: Manifest
    node: NodeId
    operator: Operator
    plan: Optional[Plan]


_Config = _Struct(Config, _Genesis, _Manifest, _NodeId, _Operator, _Option(_Plan))


class VoidReason(enum.IntEnum):
    OutOfRange = 0


_VoidReason = _Choice(VoidReason)


class BatchOutcome:
    """One of these."""

    @dataclass(frozen=True)
    class Done:
        loss_micro: int
        tokens: int
        squared_norms: Tuple[F32, ...]

    @dataclass(frozen=True)
    class Void:
        value: VoidReason


_BatchOutcome = _Enum(
    "BatchOutcome",
    _Struct(BatchOutcome.Done, _Int(64), _Uint(64), _List(_F32, 1025)),
    _Struct(BatchOutcome.Void, _VoidReason),
)


class Passed:
    """One of these."""

    @dataclass(frozen=True)
    class Done:
        output: Hash

    @dataclass(frozen=True)
    class Void:
        value: VoidReason


_Passed = _Enum(
    "Passed",
    _Struct(Passed.Done, _Hash),
    _Struct(Passed.Void, _VoidReason),
)


class Returned:
    """One of these."""

    @dataclass(frozen=True)
    class Done:
        gradient: Optional[Hash]

    @dataclass(frozen=True)
    class Void:
        value: VoidReason


_Returned = _Enum(
    "Returned",
    _Struct(Returned.Done, _Option(_Hash)),
    _Struct(Returned.Void, _VoidReason),
)


class Turned:
    """One of these."""

    @dataclass(frozen=True)
    class Done:
        loss_micro: int
        tokens: int
        gradient: Optional[Hash]

    @dataclass(frozen=True)
    class Void:
        value: VoidReason


_Turned = _Enum(
    "Turned",
    _Struct(Turned.Done, _Int(64), _Uint(64), _Option(_Hash)),
    _Struct(Turned.Void, _VoidReason),
)


class Commitment:
    """One of these."""

    @dataclass(frozen=True)
    class Ready:
        step: Step
        root: Hash

    @dataclass(frozen=True)
    class Benchmark:
        layer_us: int

    @dataclass(frozen=True)
    class Batch:
        value: BatchOutcome

    @dataclass(frozen=True)
    class Step:
        step: Step
        norm: F32

    @dataclass(frozen=True)
    class Evaluation:
        step: Step
        loss_micro: Optional[int]
        tokens: int

    @dataclass(frozen=True)
    class Snapshot:
        value: Snapshot

    @dataclass(frozen=True)
    class Forward:
        value: Passed

    @dataclass(frozen=True)
    class Turn:
        value: Turned

    @dataclass(frozen=True)
    class Backward:
        value: Returned

    @dataclass(frozen=True)
    class Norms:
        step: Step
        squared_norms: Optional[Tuple[F32, ...]]


_Commitment = _Enum(
    "Commitment",
    _Struct(Commitment.Ready, _Step, _Hash),
    _Struct(Commitment.Benchmark, _Uint(64)),
    _Struct(Commitment.Batch, _BatchOutcome),
    _Struct(Commitment.Step, _Step, _F32),
    _Struct(Commitment.Evaluation, _Step, _Option(_Int(64)), _Uint(64)),
    _Struct(Commitment.Snapshot, _Snapshot),
    _Struct(Commitment.Forward, _Passed),
    _Struct(Commitment.Turn, _Turned),
    _Struct(Commitment.Backward, _Returned),
    _Struct(Commitment.Norms, _Step, _Option(_List(_F32, 1025))),
)


class Answer:
    """One of these."""

    @dataclass(frozen=True)
    class Ok:
        value: Commitment

    @dataclass(frozen=True)
    class Err:
        value: Fault


_Answer = _Enum(
    "Answer",
    _Struct(Answer.Ok, _Commitment),
    _Struct(Answer.Err, _Fault),
)


@dataclass(frozen=True)
class Vote:
    validator: NodeId
    statement: Statement


_Vote = _Struct(Vote, _NodeId, _Statement)


@dataclass(frozen=True)
class SignedVote:
    vote: Vote
    signature: bytes


_SignedVote = _Struct(SignedVote, _Vote, _Raw(64))


@dataclass(frozen=True)
class Evidence:
    first: SignedVote
    second: SignedVote


_Evidence = _Struct(Evidence, _SignedVote, _SignedVote)


class Action:
    """One of these."""

    @dataclass(frozen=True)
    class Transfer:
        to: OwnerId
        amount: Amount

    @dataclass(frozen=True)
    class Bond:
        amount: Amount

    @dataclass(frozen=True)
    class Unbond:
        amount: Amount

    @dataclass(frozen=True)
    class RotateKey:
        new: PublicKey

    @dataclass(frozen=True)
    class RegisterNode:
        node: NodeId
        consent: bytes
        puzzle: Optional[int]

    @dataclass(frozen=True)
    class RevokeNode:
        node: NodeId

    @dataclass(frozen=True)
    class DescribeNode:
        memory_bytes: int
        storage_bytes: int
        tier: Tier
        held: LayerRange

    @dataclass(frozen=True)
    class Attest:
        subject: NodeId

    @dataclass(frozen=True)
    class CommitRandom:
        commitment: Hash

    @dataclass(frozen=True)
    class RevealRandom:
        value: Hash

    @dataclass(frozen=True)
    class ReportEquivocation:
        evidence: Evidence

    @dataclass(frozen=True)
    class Nominate:
        node: NodeId

    @dataclass(frozen=True)
    class FormQuorum:
        terms: Terms
        acceptances: Tuple[bytes, ...]

    @dataclass(frozen=True)
    class EndQuorum:
        quorum: QuorumId

    @dataclass(frozen=True)
    class PostStages:
        quorum: QuorumId
        step: Step
        position: Position
        first: LayerIndex
        stages: Tuple[LayerBlobs, ...]


_Action = _Enum(
    "Action",
    _Struct(Action.Transfer, _OwnerId, _Amount),
    _Struct(Action.Bond, _Amount),
    _Struct(Action.Unbond, _Amount),
    _Struct(Action.RotateKey, _PublicKey),
    _Struct(Action.RegisterNode, _NodeId, _Raw(64), _Option(_Uint(64))),
    _Struct(Action.RevokeNode, _NodeId),
    _Struct(Action.DescribeNode, _Uint(64), _Uint(64), _Tier, _LayerRange),
    _Struct(Action.Attest, _NodeId),
    _Struct(Action.CommitRandom, _Hash),
    _Struct(Action.RevealRandom, _Hash),
    _Struct(Action.ReportEquivocation, _Evidence),
    _Struct(Action.Nominate, _NodeId),
    _Struct(Action.FormQuorum, _Terms, _List(_Raw(64), 16)),
    _Struct(Action.EndQuorum, _QuorumId),
    _Struct(Action.PostStages, _QuorumId, _Step, _Position, _LayerIndex, _List(_LayerBlobs, 32)),
)


@dataclass(frozen=True)
class Transaction:
    author: Author
    action: Action


_Transaction = _Struct(Transaction, _Author, _Action)


@dataclass(frozen=True)
class SignedTransaction:
    transaction: Transaction
    signature: bytes


_SignedTransaction = _Struct(SignedTransaction, _Transaction, _Raw(64))


@dataclass(frozen=True)
class Block:
    header: Header
    transactions: Tuple[SignedTransaction, ...]
    finality: Optional[Certificate]


_Block = _Struct(Block, _Header, _List(_SignedTransaction, 2048), _Option(_Certificate))


class Command:
    """One of these."""

    @dataclass(frozen=True)
    class Save:
        pass

    @dataclass(frozen=True)
    class Stop:
        pass

    @dataclass(frozen=True)
    class Submit:
        value: SignedTransaction

    @dataclass(frozen=True)
    class Leave:
        pass


_Command = _Enum(
    "Command",
    _Struct(Command.Save),
    _Struct(Command.Stop),
    _Struct(Command.Submit, _SignedTransaction),
    _Struct(Command.Leave),
)


@dataclass(frozen=True)
class Decided:
    block: Block
    certificate: Certificate


_Decided = _Struct(Decided, _Block, _Certificate)


@dataclass(frozen=True)
class CarriedDecided:
    node: NodeId
    what: Decided


_CarriedDecided = _Struct(CarriedDecided, _NodeId, _Decided)


class Input:
    """One of these."""

    @dataclass(frozen=True)
    class Tick:
        pass

    @dataclass(frozen=True)
    class Message:
        value: Envelope

    @dataclass(frozen=True)
    class Persisted:
        upto: JournalSeq

    @dataclass(frozen=True)
    class Computed:
        id: RequestId
        result: Answer

    @dataclass(frozen=True)
    class Command:
        value: Command

    @dataclass(frozen=True)
    class Signed:
        id: RequestId
        signature: bytes

    @dataclass(frozen=True)
    class Fetched:
        id: RequestId
        result: Arrival


_Input = _Enum(
    "Input",
    _Struct(Input.Tick),
    _Struct(Input.Message, _Envelope),
    _Struct(Input.Persisted, _JournalSeq),
    _Struct(Input.Computed, _RequestId, _Answer),
    _Struct(Input.Command, _Command),
    _Struct(Input.Signed, _RequestId, _Raw(64)),
    _Struct(Input.Fetched, _RequestId, _Arrival),
)


class JournalFact:
    """One of these."""

    @dataclass(frozen=True)
    class Founded:
        network: NetworkId
        node: NodeId

    @dataclass(frozen=True)
    class Saved:
        states: Tuple[SavedState, ...]
        copies: Tuple[SavedState, ...]

    @dataclass(frozen=True)
    class Proposed:
        block: Block

    @dataclass(frozen=True)
    class Voted:
        ballot: Ballot

    @dataclass(frozen=True)
    class Decided:
        decided: Decided

    @dataclass(frozen=True)
    class Bound:
        epoch: int
        value: Hash

    @dataclass(frozen=True)
    class State:
        decided: Decided
        values: Tuple[Tuple[int, Hash], ...]

    @dataclass(frozen=True)
    class Chunk:
        chunk: bytes

    @dataclass(frozen=True)
    class Step:
        step: Advance

    @dataclass(frozen=True)
    class Taking:
        decided: Decided
        values: Tuple[Tuple[int, Hash], ...]


_JournalFact = _Enum(
    "JournalFact",
    _Struct(JournalFact.Founded, _NetworkId, _NodeId),
    _Struct(JournalFact.Saved, _List(_SavedState, 3), _List(_SavedState, 2)),
    _Struct(JournalFact.Proposed, _Block),
    _Struct(JournalFact.Voted, _Ballot),
    _Struct(JournalFact.Decided, _Decided),
    _Struct(JournalFact.Bound, _Uint(64), _Hash),
    _Struct(JournalFact.State, _Decided, _List(_Tuple(_Uint(64), _Hash), 4)),
    _Struct(JournalFact.Chunk, _Blob(262144)),
    _Struct(JournalFact.Step, _Advance),
    _Struct(JournalFact.Taking, _Decided, _List(_Tuple(_Uint(64), _Hash), 4)),
)


@dataclass(frozen=True)
class Proposal:
    leader: NodeId
    view: int
    block: Block
    entry: Optional[Certificate]
    lock: Optional[Certificate]


_Proposal = _Struct(Proposal, _NodeId, _Uint(64), _Block, _Option(_Certificate), _Option(_Certificate))


@dataclass(frozen=True)
class Record:
    seq: JournalSeq
    fact: JournalFact


_Record = _Struct(Record, _JournalSeq, _JournalFact)


class Word:
    """One of these."""

    @dataclass(frozen=True)
    class Ready:
        steps: Tuple[Step, ...]

    @dataclass(frozen=True)
    class Gather:
        pass

    @dataclass(frozen=True)
    class Go:
        step: Step

    @dataclass(frozen=True)
    class Forward:
        batch: BatchId
        index: int
        blob: Hash

    @dataclass(frozen=True)
    class Backward:
        batch: BatchId
        index: int
        blob: Hash

    @dataclass(frozen=True)
    class Done:
        batch: BatchId
        loss_micro: int
        tokens: int
        squared_norms: Tuple[F32, ...]

    @dataclass(frozen=True)
    class Void:
        batch: BatchId

    @dataclass(frozen=True)
    class Lacks:
        batch: BatchId
        forward: int
        backward: int
        done: bool

    @dataclass(frozen=True)
    class Here:
        pass


_Word = _Enum(
    "Word",
    _Struct(Word.Ready, _List(_Step, 4)),
    _Struct(Word.Gather),
    _Struct(Word.Go, _Step),
    _Struct(Word.Forward, _BatchId, _Uint(32), _Hash),
    _Struct(Word.Backward, _BatchId, _Uint(32), _Hash),
    _Struct(Word.Done, _BatchId, _Int(64), _Uint(64), _List(_F32, 1025)),
    _Struct(Word.Void, _BatchId),
    _Struct(Word.Lacks, _BatchId, _Uint(32), _Uint(32), _Flag()),
    _Struct(Word.Here),
)


@dataclass(frozen=True)
class QuorumMessage:
    quorum: QuorumId
    node: NodeId
    term: int
    word: Word


_QuorumMessage = _Struct(QuorumMessage, _QuorumId, _NodeId, _Uint(64), _Word)


# Each type's codec, and the most bytes of one that stands on its own.
_TYPES = {
    "Activity": (_Activity, None),
    "Amount": (_Amount, None),
    "BatchId": (_BatchId, None),
    "Candidate": (_Candidate, None),
    "Decline": (_Decline, None),
    "DropReason": (_DropReason, None),
    "F32": (_F32, None),
    "FetchFault": (_FetchFault, None),
    "Arrival": (_Arrival, None),
    "Hash": (_Hash, None),
    "JobKind": (_JobKind, None),
    "JournalSeq": (_JournalSeq, None),
    "LayerBlobs": (_LayerBlobs, None),
    "LayerIndex": (_LayerIndex, None),
    "LayerRange": (_LayerRange, None),
    "Lock": (_Lock, None),
    "Micro": (_Micro, None),
    "Mode": (_Mode, None),
    "ModeReason": (_ModeReason, None),
    "ModelSpec": (_ModelSpec, None),
    "NetworkId": (_NetworkId, None),
    "Envelope": (_Envelope, 1048576),
    "NodeId": (_NodeId, None),
    "Beacon": (_Beacon, 553),
    "BlocksWanted": (_BlocksWanted, 64),
    "CandidatesPiece": (_CandidatesPiece, None),
    "Endorsement": (_Endorsement, None),
    "Member": (_Member, None),
    "NodeParams": (_NodeParams, None),
    "OwnerId": (_OwnerId, None),
    "Allocation": (_Allocation, None),
    "Founder": (_Founder, None),
    "Phase": (_Phase, None),
    "Plan": (_Plan, 1048576),
    "Position": (_Position, None),
    "Progress": (_Progress, None),
    "Proof": (_Proof, None),
    "PublicKey": (_PublicKey, None),
    "Author": (_Author, None),
    "QuorumId": (_QuorumId, None),
    "Ratio": (_Ratio, None),
    "MoneyParams": (_MoneyParams, None),
    "Operator": (_Operator, None),
    "PhaseRow": (_PhaseRow, None),
    "QuorumParams": (_QuorumParams, None),
    "RequestId": (_RequestId, None),
    "Sample": (_Sample, None),
    "Schedule": (_Schedule, None),
    "Seats": (_Seats, 1048576),
    "NextSeats": (_NextSeats, None),
    "Shard": (_Shard, None),
    "Manifest": (_Manifest, 1048576),
    "Standing": (_Standing, None),
    "StatePlace": (_StatePlace, None),
    "StatePiece": (_StatePiece, 262272),
    "StateWanted": (_StateWanted, 96),
    "Statement": (_Statement, None),
    "Step": (_Step, None),
    "Anchor": (_Anchor, None),
    "Fault": (_Fault, 1048576),
    "Post": (_Post, None),
    "Snapshot": (_Snapshot, None),
    "Job": (_Job, 1048576),
    "SavedState": (_SavedState, None),
    "Stage": (_Stage, None),
    "StagePath": (_StagePath, None),
    "StageProof": (_StageProof, 16384),
    "StagesPiece": (_StagesPiece, None),
    "StepsWanted": (_StepsWanted, 64),
    "Subject": (_Subject, None),
    "Certificate": (_Certificate, 73728),
    "Ballot": (_Ballot, None),
    "CarriedCertificate": (_CarriedCertificate, 73760),
    "Successes": (_Successes, None),
    "Tier": (_Tier, None),
    "Description": (_Description, None),
    "Node": (_Node, None),
    "NodePath": (_NodePath, None),
    "NodeProof": (_NodeProof, 16384),
    "NodesPiece": (_NodesPiece, None),
    "Time": (_Time, None),
    "Header": (_Header, 512),
    "Advance": (_Advance, 131072),
    "Heartbeat": (_Heartbeat, 128),
    "PeerFault": (_PeerFault, None),
    "Quorum": (_Quorum, None),
    "QuorumPath": (_QuorumPath, None),
    "QuorumProof": (_QuorumProof, 16384),
    "QuorumsPiece": (_QuorumsPiece, None),
    "Recovery": (_Recovery, None),
    "Event": (_Event, None),
    "Steps": (_Steps, 1048064),
    "Terms": (_Terms, 2048),
    "FormingWord": (_FormingWord, None),
    "FormingMessage": (_FormingMessage, 4096),
    "Topic": (_Topic, None),
    "Output": (_Output, 1048576),
    "TrainSpec": (_TrainSpec, None),
    "Unbonding": (_Unbonding, None),
    "Account": (_Account, None),
    "AccountPath": (_AccountPath, None),
    "AccountProof": (_AccountProof, 16384),
    "AccountsPiece": (_AccountsPiece, None),
    "Chunk": (_Chunk, 262144),
    "ValidatorParams": (_ValidatorParams, None),
    "Params": (_Params, 1048576),
    "Genesis": (_Genesis, 1048576),
    "Config": (_Config, 1048576),
    "VoidReason": (_VoidReason, None),
    "BatchOutcome": (_BatchOutcome, None),
    "Passed": (_Passed, None),
    "Returned": (_Returned, None),
    "Turned": (_Turned, None),
    "Commitment": (_Commitment, 1048576),
    "Answer": (_Answer, None),
    "Vote": (_Vote, 128),
    "SignedVote": (_SignedVote, 256),
    "Evidence": (_Evidence, 512),
    "Action": (_Action, None),
    "Transaction": (_Transaction, 4096),
    "SignedTransaction": (_SignedTransaction, 4160),
    "Block": (_Block, 180224),
    "Command": (_Command, None),
    "Decided": (_Decided, 253952),
    "CarriedDecided": (_CarriedDecided, 253984),
    "Input": (_Input, 1048576),
    "JournalFact": (_JournalFact, None),
    "Proposal": (_Proposal, 1048064),
    "Record": (_Record, 263168),
    "Word": (_Word, None),
    "QuorumMessage": (_QuorumMessage, 16384),
}

# What an envelope holds, by its kind: the kind's name and the payload's type.
KINDS = {
    1: ("Heartbeat", "Heartbeat"),
    2: ("Transaction", "Transaction"),
    3: ("Vote", "Vote"),
    4: ("Proposal", "Proposal"),
    5: ("Certificate", "CarriedCertificate"),
    6: ("BlocksWanted", "BlocksWanted"),
    7: ("Decided", "CarriedDecided"),
    8: ("StepsWanted", "StepsWanted"),
    9: ("Steps", "Steps"),
    10: ("StateWanted", "StateWanted"),
    11: ("StatePiece", "StatePiece"),
    12: ("Quorum", "QuorumMessage"),
    13: ("Forming", "FormingMessage"),
    14: ("Beacon", "Beacon"),
}
