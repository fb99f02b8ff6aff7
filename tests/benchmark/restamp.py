"""A binlog as long as wished: tpch's, again and again, with other orders at later times.

Everything but keys and timestamps stays. Numbers in binlog are varints, so keys are first raised to
where all of them take five bytes; timestamps take nine anyway. From then on a copy is the same
bytes with other digits at known places:

    ... 08 02 08 [5 bytes: order key] ...      in handles and rows of orders and lineitem
    ... 10 [9 bytes: start_ts] ...             in each message, and its commit_ts

`spread` decides where the new rows go. Without it the keys of a copy lie above those of the copy
before, as orders that are taken one after the other; with it between them, so that every
publication reaches over the whole table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE, parse_prewrite
from pyspark_theflash.replication.source.wire import decode_entities
from pyspark_theflash.tidb.codec.number import decode_varint, encode_uvarint
from tests.support.binlog_writer import commit, frame, prewrite, prewrite_value
from tests.support.encoding import encode_varint
from tests.support.workloads import Workload

KEY_BYTES = 5
TS_BYTES = 9
BASE = 1 << 28
"""Zigzag numbers from here on take five bytes."""
ROOM = 1 << 20
"""Order keys of tpch are below this."""
COPIES_MAX = 1 << 10

_HEADS = {INSERT: b"\x08", UPDATE: b"\x08\x02\x08", DELETE_ROW: b"\x08\x02\x08"}
"""The bytes before the order key, which is the handle or column 1."""
TIMES = {INSERT: 1, UPDATE: 2, DELETE_ROW: 1}
"""The number of times that a row contains it."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Template:
    """Messages laid end to end, and the digits in them that change."""

    data: npt.NDArray[np.uint8]
    bounds: Ints
    key_at: Ints
    keys: Ints
    ts_at: Ints
    ts: Ints


@dataclass(frozen=True)
class Stream:
    """A folder of binlog files and its content."""

    folder: Path
    until_ts: TimeStamp
    row_changes: int
    size_bytes: int


def write_stream(chosen: Workload, folder: Path, size_bytes: int, *, spread: bool) -> Stream:
    """Files of at least `size_bytes` in all: one copy a file, after one with the DDL."""
    folder.mkdir()
    frames = list(FileSource(chosen.binlog).frames())
    entities = [entity for f in frames for entity in decode_entities(f.payload, f.file, f.offset)]
    ddl = {entity.start_ts for entity in entities if entity.ddl is not None}
    first = [f.payload for f, e in zip(frames, entities, strict=True) if e.start_ts in ddl]
    _write(folder / "binlog-0000000000000000", first)
    template, rows = _template([e for e in entities if e.start_ts not in ddl])
    begin, end = int(template.ts.min()), int(template.ts.max())
    span = end - begin + (1 << 18)
    copies = max(1, -(-size_bytes // len(template.data)))
    if copies > COPIES_MAX:
        raise ValueError(f"at most {COPIES_MAX} copies")
    total = 0
    for copy in range(copies):
        path = folder / f"binlog-{copy + 1:016d}"
        total += _write(path, _copy(template, copy, copy * span, spread=spread))
    return Stream(folder, TimeStamp(end + (copies - 1) * span), rows * copies, total)


def _template(entities: Sequence) -> tuple[_Template, int]:
    """The template, and how many row changes it has."""
    messages, key_at, keys, ts_at, ts = [], [], [], [], []
    size = rows = 0
    for entity in entities:
        if entity.kind is EntityKind.PREWRITE:
            changes = _raised(entity.payload)
            message = prewrite(entity.start_ts, prewrite_value(*changes))
            at = 0
            for kind, row in _rows_as_sent(changes[1]):
                at = message.index(row, at)
                for place in _key_places(kind, row):
                    key_at.append(size + at + place)
                    keys.append(decode_varint(row, place)[0] - BASE)
                at += len(row)
                rows += 1
        else:
            message = commit(entity.start_ts, entity.commit_ts)
            ts_at.append(size + message.index(encode_uvarint(entity.commit_ts)))
            ts.append(entity.commit_ts)
        ts_at.append(size + message.index(encode_uvarint(entity.start_ts)))
        ts.append(entity.start_ts)
        messages.append(message)
        size += len(message)
    bounds = np.cumsum([0, *map(len, messages)])
    data = np.frombuffer(b"".join(messages), np.uint8)
    return _Template(data, bounds, *map(np.array, (key_at, keys, ts_at, ts))), rows


def _raised(payload: bytes) -> tuple[int, dict[int, list[tuple[int, bytes]]]]:
    """A prewrite's changes with keys of `KEY_BYTES`, as `prewrite_value` takes them."""
    parsed = parse_prewrite(payload)
    changes = {}
    for mutations in parsed.mutations:
        lists = (mutations.inserted, mutations.updated, mutations.deleted)
        rows = dict(zip(TIMES, map(iter, lists), strict=True))
        changes[mutations.table_id] = [
            (kind, _raised_row(kind, next(rows[kind]))) for kind in mutations.sequence.tolist()
        ]
    return parsed.schema_version, changes


def _raised_row(kind: int, row: bytes) -> bytes:
    head = _HEADS[kind]
    key, end = decode_varint(row, len(head))
    parts = row.split(row[:end]) if kind != INSERT else [b"", row[end:]]
    if len(parts) != TIMES[kind] + 1:
        raise ValueError("a row with its key somewhere else")
    return (head + encode_varint(key + BASE)).join(parts)


def _key_places(kind: int, row: bytes) -> Iterator[int]:
    """Yield the offsets of raised keys in a row."""
    head, at = _HEADS[kind], 0
    for _ in range(TIMES[kind]):
        at = row.index(row[: len(head) + KEY_BYTES], at)
        at += len(head)
        yield at


def _rows_as_sent(changes: dict[int, list[tuple[int, bytes]]]) -> Iterator[tuple[int, bytes]]:
    """Rows in the order in which a message holds them: by table, by kind."""
    for rows in changes.values():
        yield from sorted(rows, key=lambda change: change[0])


def _copy(template: _Template, copy: int, later: int, *, spread: bool) -> Iterator[bytes]:
    data = template.data.copy()
    keys = template.keys * COPIES_MAX + copy if spread else template.keys + copy * ROOM
    _put_uvarints(data, template.key_at, 2 * (BASE + keys), KEY_BYTES)
    _put_uvarints(data, template.ts_at, template.ts + later, TS_BYTES)
    content = data.tobytes()
    for begin, end in zip(template.bounds[:-1], template.bounds[1:], strict=True):
        yield content[begin:end]


def _put_uvarints(data: npt.NDArray[np.uint8], at: Ints, values: Ints, size: int) -> None:
    """Write numbers that take `size` bytes as varints."""
    if values.min() < 1 << 7 * (size - 1) or int(values.max()) >= 1 << 7 * size:
        raise ValueError(f"not all of {size} bytes")
    for place in range(size):
        more = 0x80 if place < size - 1 else 0
        data[at + place] = (values >> 7 * place & 0x7F) | more


def _write(path: Path, messages: Iterator[bytes] | Sequence[bytes]) -> int:
    with path.open("wb") as file:
        return sum(file.write(frame(message)) for message in messages)
