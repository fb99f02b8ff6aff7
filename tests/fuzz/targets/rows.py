"""Rows, keys and handles, as binlogs and TiKV have them."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.tidb.codec.checksum import RecordKeys
from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import decode_common_handles, encode_common_handles
from pyspark_theflash.tidb.codec.key import (
    MvccKey,
    RawKey,
    decode_mvcc_key,
    decode_record_key,
    encode_record_key,
)
from pyspark_theflash.tidb.codec.number import encode_uvarint
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from pyspark_theflash.tidb.codec.text import format_column
from tests.fuzz.mutate import Mutate, bytes_like
from tests.fuzz.run import Target
from tests.fuzz.targets.captured import (
    every_type,
    every_type_rows,
    live_documents,
    specs_of,
)
from tests.support.decoded import types_of
from tests.support.encoding import encode_index_prefix, encode_mvcc_key
from tests.support.golden_vectors import value_vectors
from tests.support.row_oracle import (
    Types,
    decode_insert_v1,
    decode_row_v1,
    decode_update_v1,
    encode_insert_v1,
    encode_row_v1,
    encode_row_v2,
)

COLLATIONS = (
    "binary",
    "utf8mb4_bin",
    "utf8mb4_general_ci",
    "utf8mb4_unicode_ci",
    "utf8mb4_0900_ai_ci",
    "gbk_chinese_ci",
    "latin1_bin",
)
_INT = FieldType(MySQLType.LONGLONG)
_TABLE = PhysicalTableID(7)
_COLUMNS = 6


def inserted_row(_: Path) -> Target:
    return _of_every_type(
        "inserted", _cut_insert, lambda rows, specs: decode_inserts_v1(rows, specs, ())
    )


def inserted_row_of_clustered_table(_: Path) -> Target:
    """The handle is several datums in front."""
    handle = [ColumnSpec(ColumnID(90 + n), f"k{n}", t) for n, t in enumerate(_key_types("binary"))]
    date = encode_uvarint((2024 * 13 + 2 << 5 | 29) << 41)
    front = b"\x08\x05" + b"\x02\x04ab" + b"\x09" + date + b"\x06\x04\x02\x81\x32"

    def cut(row: bytes, types: Types) -> bytes:
        return front + encode_row_v1(decode_insert_v1(row, types, [_INT])[1], types)

    return _of_every_type(
        "inserted", cut, lambda rows, specs: decode_inserts_v1(rows, specs, handle)
    )


def updated_row(_: Path) -> Target:
    return _of_every_type("updated", _cut_update, decode_updates_v1)


def deleted_row(_: Path) -> Target:
    """As older TiDBs stored rows too; printed and summed up as a scan does."""
    return _of_every_type(
        "deleted", _cut_row, lambda rows, specs: _print(decode_rows_v1(rows, specs), specs)
    )


def stored_row_of_every_type(_: Path) -> Target:
    def cut(row: bytes, types: Types) -> bytes:
        return encode_row_v2(decode_row_v1(row, types), types)

    return _of_every_type("deleted", cut, decode_rows_v2)


def _of_every_type(
    kind: str,
    cut: Callable[[bytes, Types], bytes],
    decode: Callable[[RowBuffer, Sequence[ColumnSpec]], object],
) -> Target:
    """u8 which columns | captured rows, of which `cut` leaves those columns.

    Whole ones would cost as much more as they have columns, and not find more.
    """
    specs = specs_of(every_type())
    parts = [specs[n : n + _COLUMNS] for n in range(0, len(specs), _COLUMNS)]
    seeds = [
        bytes([n]) + cut(row, types_of(part))
        for n, part in enumerate(parts)
        for row in every_type_rows(kind)
    ]

    def parse(data: bytes) -> None:
        decode(_one(data[1:]), parts[data[0] % len(parts) if data else 0])

    return Target(seeds, bytes_like(seeds), parse)


def _cut_row(row: bytes, types: Types) -> bytes:
    return encode_row_v1(decode_row_v1(row, types), types)


def _cut_update(row: bytes, types: Types) -> bytes:
    return b"".join(encode_row_v1(half, types) for half in decode_update_v1(row, types))


def _cut_insert(row: bytes, types: Types) -> bytes:
    handle, columns = decode_insert_v1(row, types, [_INT])
    return encode_insert_v1(handle, [_INT], encode_row_v1(columns, types))


def stored_row(_: Path) -> Target:
    """A row of one of the captured tables, which the first byte chooses; beside a good one."""
    tables = [
        (specs_of(table), [value for _, value in records if value[:1] == b"\x80"])
        for table, records in live_documents()
    ]
    tables = [table for table in tables if table[1]]
    seeds = [bytes([n]) + value for n, (_, values) in enumerate(tables) for value in values]

    def parse(data: bytes) -> None:
        specs, values = tables[data[0] % len(tables) if data else 0]
        _print(decode_rows_v2(RowBuffer.from_list([data[1:], values[0]]), specs), specs)

    return Target(seeds, bytes_like(seeds), parse)


def row_of_vectors(_: Path) -> Target:
    """u8 version of the row's format | the row, printed."""
    specs = [ColumnSpec(ColumnID(n), f"v{n}", FieldType(MySQLType.VECTOR)) for n in (1, 2)]
    seeds = []
    for one, other in (([1.0, 0.5], [-0.0]), ([], [1e-38] * 90), ([2.5], None)):
        row = encode_row_v2({1: one, 2: other}, types_of(specs))
        datum = b"\x14" + len(one).to_bytes(4, "little") + np.array(one, "<f4").tobytes()
        seeds += [b"\x02" + row, b"\x01\x08\x02" + datum + b"\x08\x04\x00"]

    def parse(data: bytes) -> None:
        decode = decode_rows_v1 if data[:1] == b"\x01" else decode_rows_v2
        _print(decode(_one(data[1:]), specs), specs)

    return Target(seeds, bytes_like(seeds), parse)


def checksummed_row(_: Path) -> Target:
    """Key and row with a checksum, some made right after the change: u8 length | key | row."""
    specs = [
        ColumnSpec(ColumnID(1), "a", _INT),
        ColumnSpec(ColumnID(2), "k", FieldType(MySQLType.LONGLONG, ColumnFlag.PRI_KEY)),
        ColumnSpec(ColumnID(3), "b", FieldType(MySQLType.BLOB, charset="binary")),
        ColumnSpec(ColumnID(300), "c", _INT),
    ]
    prefix = encode_record_key(_TABLE, 0)[:-8]
    seeds = []
    for vector in value_vectors("checksum2"):
        key = prefix + bytes.fromhex(vector["handle"])
        seeds.append(bytes([len(key)]) + key + bytes.fromhex(vector["hex"]))
    for vector in value_vectors("checksum0"):
        key = encode_record_key(_TABLE, -7)
        seeds.append(bytes([len(key)]) + key + bytes.fromhex(vector["hex"]))
    change = bytes_like(seeds)

    def mutate(rng: random.Random) -> bytes:
        data = change(rng)
        if rng.random() < 0.5 or len(data) < 30:
            return data
        size = data[0] + 1
        key, body = data[1:size], data[size:-4]
        return data[:-4] + crc32(body + key[11:]).to_bytes(4, "little")

    def parse(data: bytes) -> None:
        size = data[0] + 1 if data else 1
        keys = RecordKeys(_one(data[1:size]), specs[1:2])
        decode_rows_v2(_one(data[size:]), specs, keys)

    right = [seed for seed in seeds if seed[1:12] == prefix][: len(value_vectors("checksum2"))]
    return Target(right, mutate, parse)


def record_key(_: Path) -> Target:
    keys = [key for _, records in live_documents() for key, _ in records]
    return Target(keys, _keys(keys), lambda data: decode_record_key(RawKey(data)))


def mvcc_key(_: Path) -> Target:
    keys = [key for _, records in live_documents() for key, _ in records]
    seeds = [encode_mvcc_key(RawKey(key), TimeStamp(2**63 + n)) for n, key in enumerate(keys)]

    def parse(data: bytes) -> None:
        decode_record_key(decode_mvcc_key(MvccKey(data))[0])

    return Target(seeds, bytes_like(seeds), parse)


def _keys(keys: Sequence[bytes]) -> Mutate:
    index = encode_index_prefix(_TABLE, 3)
    words = (b"t", b"_r", b"_i", b"m", index, b"\x00" * 8, b"\xff" * 8, b"\x80")
    return bytes_like([*keys, index + b"\x03" + bytes(8)], words)


def common_handle(_: Path) -> Target:
    """Keys of all types that can be in one; the first byte chooses the collation."""
    values = [
        pa.array([b"", b"ab", b"a longer value"], pa.binary()),
        pa.array([1, -(2**63), 2**63 - 1], pa.int64()),
        pa.array(["", "é ", "Straße"]),
        pa.array([0, 20_000, 10_000_033], pa.int32()).view(pa.date32()),
        pa.array(["0.00", "-1.10", "99.99"]).cast(pa.decimal128(4, 2)),
    ]
    seeds = []
    for n, collate in enumerate(COLLATIONS):
        types = _key_types(collate)
        columns = [values[1], values[2] if n else values[0], values[3], values[4]]
        handles = encode_common_handles(columns, types, [-1, -1, -1, -1])
        seeds += [bytes([n]) + handle for handle in handles.to_pylist()]

    def parse(data: bytes) -> None:
        collate = COLLATIONS[data[0] % len(COLLATIONS) if data else 0]
        decode_common_handles(pa.array([data[1:]], pa.binary()), _key_types(collate))

    return Target(seeds, bytes_like(seeds), parse)


def _key_types(collate: str) -> list[FieldType]:
    text = FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", collate)
    if collate == "binary":
        text = FieldType(MySQLType.VARCHAR, 0, 64, -1, "binary", collate)
    decimal = FieldType(MySQLType.NEWDECIMAL, 0, 4, 2)
    return [_INT, text, FieldType(MySQLType.DATE), decimal]


def sort_key(_: Path) -> Target:
    """Strings under every collation, of which the first byte chooses one."""
    texts = ["", "abc  ", "Straße", "\u0e40\u0e01", "ﷺ", "\U0001f600", "字", "\uffff"]
    seeds = [bytes([n]) + t.encode() for n in range(len(COLLATIONS)) for t in texts]

    def parse(data: bytes) -> None:
        collate = COLLATIONS[data[0] % len(COLLATIONS) if data else 0]
        sort_keys(pa.array([data[1:]], pa.binary()), FieldType(MySQLType.VARCHAR, collate=collate))

    return Target(seeds, bytes_like(seeds), parse)


def _print(rows: DecodedRows, specs: Sequence[ColumnSpec]) -> None:
    columns = zip(rows.columns, specs, strict=True)
    TableDigest().update([format_column(column.values, spec.type) for column, spec in columns])


def _one(data: bytes) -> RowBuffer:
    return RowBuffer.from_list([data])
