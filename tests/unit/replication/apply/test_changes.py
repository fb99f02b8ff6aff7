"""Conversion of encoded rows to versions: order, handles, omitted values, errors."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyspark_theflash.base.errors import SchemaOutdatedError, UnsupportedError
from pyspark_theflash.base.types import TableID, TimeStamp
from pyspark_theflash.replication.apply import changes as changes_module
from pyspark_theflash.replication.apply.changes import TableChanges
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE, TableMutations
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.schema.model import (
    ROWID_COLUMN_ID,
    IndexColumn,
    PrimaryKey,
    TableInfo,
    parse_table_info,
)
from tests.support.row_oracle import encode_insert_v1, encode_row_v1

BIGINT = FieldType(MySQLType.LONGLONG)
BIN = "utf8mb4_bin"
PLAIN = table_info(7, "shop.item", [id_column(), column("name", MySQLType.VARCHAR)])
UNSIGNED_KEY = column(
    "id", MySQLType.LONGLONG, flag=ColumnFlag.NOT_NULL | ColumnFlag.PRI_KEY | ColumnFlag.UNSIGNED
)
UNSIGNED = table_info(8, "shop.big", [UNSIGNED_KEY])
HIDDEN = table_info(9, "shop.log", [column("line", MySQLType.VARCHAR)], has_rowid=True)

Change = tuple[int, bytes]
Rows = list[tuple[Any, ...]]


def row(table: TableInfo, *values: object, rowid: int | None = None) -> bytes:
    """Encode a row of all columns, as in updates and deletes."""
    types = {int(c.id): c.type for c in table.columns} | {ROWID_COLUMN_ID: BIGINT}
    cells: dict[int, object] = {int(c.id): v for c, v in zip(table.columns, values, strict=True)}
    if rowid is not None:
        cells[ROWID_COLUMN_ID] = rowid
    return encode_row_v1(cells, types)


def insert(table: TableInfo, handle: int, *values: object) -> Change:
    """Encode an insert; like TiDB, the row omits a column that is the handle."""
    stored = {
        int(c.id): v
        for c, v in zip(table.columns, values, strict=True)
        if c not in table.handle_columns
    }
    types = {int(c.id): c.type for c in table.columns}
    return INSERT, encode_insert_v1([handle], [BIGINT], encode_row_v1(stored, types))


def update(old: bytes, new: bytes) -> Change:
    return UPDATE, old + new


def delete(old: bytes) -> Change:
    return DELETE_ROW, old


def versions(table: TableInfo, *transactions: Sequence[Change], parts: int = 0) -> Rows:
    """Return the versions of transactions that commit at 11, 21, 31, ...: (physical id, row...).

    With `parts`, they are decoded apart.
    """
    changes = TableChanges(table)
    for number, rows in enumerate(transactions, 1):
        lists = {kind: [r for k, r in rows if k == kind] for kind in (INSERT, UPDATE, DELETE_ROW)}
        sequence = np.array([kind for kind, _ in rows], np.uint8)
        mutations = TableMutations(
            TableID(table.id), lists[INSERT], lists[UPDATE], lists[DELETE_ROW], sequence
        )
        changes.add(mutations, TimeStamp(number * 10), TimeStamp(number * 10 + 1))
    apart = [TableChanges(table) for _ in range(parts)]
    divided = list(changes.divided(parts)) if parts else []
    assert len(divided) <= parts
    for part, content in zip(apart, divided, strict=False):
        part.extend(content)
    return [
        (version.physical_id, *cells.values())
        for part in (apart[: len(divided)] if parts else [changes])
        for version in part.to_versions()
        for cells in version.batch.to_pylist()
    ]


@pytest.mark.parametrize("table", [PLAIN, HIDDEN])
def test_rows_that_are_decoded_apart_are_one_batch(
    table: TableInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row_of(handle: int, text: str) -> bytes:
        return row(table, text, rowid=handle) if table.has_rowid else row(table, handle, text)

    def new(handle: int, text: str) -> Change:
        return insert(table, handle, *(() if table.has_rowid else (handle,)), text)

    transactions = [
        [new(handle, "a") for handle in (5, 1, 4, 2, 3)],
        [update(row_of(h, "a"), row_of(h, "b")) for h in (4, 3, 1)],
        [delete(row_of(5, "a")), new(6, "c"), delete(row_of(1, "b"))],
        [new(5, "d"), delete(row_of(6, "c"))],
    ]
    whole = versions(table, *transactions)
    assert len(whole) == sum(map(len, transactions))
    monkeypatch.setattr(changes_module, "CHUNK_ROWS", 2)
    assert versions(table, *transactions) == whole


def test_a_row_is_known_to_be_as_wide_as_its_columns() -> None:
    columns = [column("d", MySQLType.DATE), column("e", MySQLType.NEWDECIMAL, flen=60)]
    table = table_info(10, "shop.wide", [id_column(), *columns, column("s", MySQLType.VARCHAR)])
    assert TableChanges(table).row_bytes == 8 + 4 + 32 + 4


def test_each_change_is_a_version_sorted_by_row_and_time() -> None:
    stored = versions(
        PLAIN,
        [insert(PLAIN, 2, 2, "two"), insert(PLAIN, 1, 1, "one")],
        [update(row(PLAIN, 2, "two"), row(PLAIN, 2, None))],
        [delete(row(PLAIN, 1, "one"))],
    )
    assert stored == [
        (7, 1, 11, 10, 1, 1, "one"),
        (7, 1, 31, 30, 0, None, None),
        (7, 2, 11, 10, 1, 2, "two"),
        (7, 2, 21, 20, 1, 2, None),
    ]


def test_of_several_changes_in_a_transaction_the_last_counts() -> None:
    old = row(PLAIN, 1, "a")
    kept = [insert(PLAIN, 1, 1, "a"), delete(old), insert(PLAIN, 1, 1, "b")]
    assert versions(PLAIN, kept) == [(7, 1, 11, 10, 1, 1, "b")]
    gone = [delete(old), insert(PLAIN, 1, 1, "b"), delete(row(PLAIN, 1, "b"))]
    assert versions(PLAIN, gone) == [(7, 1, 11, 10, 0, None, None)]
    changed = [insert(PLAIN, 1, 1, "a"), update(old, row(PLAIN, 1, "c"))]
    assert versions(PLAIN, changed) == [(7, 1, 11, 10, 1, 1, "c")]


def test_an_unsigned_key_keeps_its_bits() -> None:
    top = 2**64 - 1
    stored = versions(UNSIGNED, [insert(UNSIGNED, -1, top)], [delete(row(UNSIGNED, top))])
    assert stored == [(8, -1, 11, 10, 1, top), (8, -1, 21, 20, 0, None)]


def test_rows_without_a_key_are_found_by_their_rowid() -> None:
    """Equal rows are distinguished by column -1 of updates and deletes."""
    stored = versions(
        HIDDEN,
        [insert(HIDDEN, 1, "same"), insert(HIDDEN, 2, "same")],
        [update(row(HIDDEN, "same", rowid=2), row(HIDDEN, "other", rowid=2))],
        [delete(row(HIDDEN, "same", rowid=1))],
    )
    assert stored == [
        (9, 1, 11, 10, 1, "same"),
        (9, 1, 31, 30, 0, None),
        (9, 2, 11, 10, 1, "same"),
        (9, 2, 21, 20, 1, "other"),
    ]
    with pytest.raises(SchemaOutdatedError, match="_tidb_rowid"):
        versions(HIDDEN, [delete(row(HIDDEN, "same"))])


def test_that_rows_lack_a_column_is_kept_where_it_has_a_default() -> None:
    added = column("stock", MySQLType.LONGLONG, origin_default="5", default="9")
    table = table_info(7, "shop.item", [id_column(), added])
    written_before = (INSERT, encode_insert_v1([1], [BIGINT], b"\0"))
    written_after = insert(table, 2, 2, 7)
    assert versions(table, [written_before]) == [(7, 1, 11, 10, 1, 1, None, True)]
    assert versions(table, [written_before, written_after]) == [
        (7, 1, 11, 10, 1, 1, None, True),
        (7, 2, 11, 10, 1, 2, 7, False),
    ]


def test_a_default_that_rows_lack_places_them() -> None:
    """An invalid default of a column that partitions do not use has no effect."""
    columns = [
        id_column(),
        column("stock", MySQLType.LONGLONG, origin_default="5"),
        column("broken", MySQLType.TINY, origin_default="none"),
    ]
    partition = {
        "enable": True,
        "type": 2,
        "expr": "`stock`",
        "columns": None,
        "definitions": [{"id": 90 + n, "name": {"O": f"p{n}"}} for n in range(4)],
    }
    info = json.loads(table_info(7, "shop.item", columns).json_text) | {"partition": partition}
    table = parse_table_info("shop", info)
    written_before = (INSERT, encode_insert_v1([1], [BIGINT], b"\0"))
    assert versions(table, [written_before]) == [(91, 1, 11, 10, 1, 1, None, True, None, True)]


def test_integers_beyond_their_type_are_kept() -> None:
    """Without strict SQL mode TiDB stores 2^64 - 1 in any unsigned column."""
    unsigned = ColumnFlag.UNSIGNED
    byte = column("b", MySQLType.TINY, flag=unsigned)
    table = table_info(7, "shop.item", [id_column(), byte])
    wide = table_info(7, "shop.item", [id_column(), column("b", MySQLType.LONGLONG, flag=unsigned)])
    rows = [insert(wide, 1, 1, 255), insert(wide, 2, 2, 2**64 - 1), insert(wide, 3, 3, None)]
    assert [cells[-1] for cells in versions(table, rows)] == [255, 2**64 - 1, None]
    key = column("id", MySQLType.LONG, flag=unsigned | ColumnFlag.NOT_NULL | ColumnFlag.PRI_KEY)
    keyed = table_info(8, "shop.key", [key])
    assert versions(keyed, [(INSERT, encode_insert_v1([-1], [BIGINT], b"\0"))]) == [
        (8, -1, 11, 10, 1, 2**64 - 1)
    ]


def test_rows_that_do_not_fit_the_schema_say_what_is_missing() -> None:
    narrow = table_info(7, "shop.item", [id_column()])
    with pytest.raises(SchemaOutdatedError, match=r"column 2 in shop\.item"):
        versions(narrow, [insert(PLAIN, 1, 1, "one")])
    strict = column("name", MySQLType.VARCHAR, flag=ColumnFlag.NOT_NULL)
    table = table_info(7, "shop.item", [id_column(), strict])
    with pytest.raises(SchemaOutdatedError, match="NOT NULL column name"):
        versions(table, [(INSERT, encode_insert_v1([1], [BIGINT], b"\0"))])


def clustered_by_text(collate: str, length: int = -1) -> TableInfo:
    """A table whose only column is its clustered key."""
    code = column(
        "code", MySQLType.VARCHAR, flag=ColumnFlag.NOT_NULL | ColumnFlag.PRI_KEY, collate=collate
    )
    return replace(
        table_info(7, "shop.item", [code]),
        pk_is_handle=False,
        is_common_handle=True,
        primary_key=PrimaryKey((IndexColumn(0, length),)),
    )


def insert_text(table: TableInfo, in_handle: str | bytes, in_row: str | None) -> Rows:
    """Return the version of an insert; None omits the value from the row."""
    types = {1: table.columns[0].type}
    stored = encode_row_v1({} if in_row is None else {1: in_row}, types)
    return versions(table, [(INSERT, encode_insert_v1([in_handle], [types[1]], stored))])


@pytest.mark.parametrize(
    ("collate", "length", "value", "key"),
    [
        (BIN, -1, "a ", b"a"),
        (BIN, 3, "ab cd", b"ab"),
        ("utf8mb4_0900_bin", -1, "a ", b"a "),
        ("utf8mb4_general_ci", -1, "aé ", b"\0A\0E"),
        ("utf8mb4_general_ci", 1, "aé ", b"\0A"),
        ("utf8mb4_0900_ai_ci", -1, "a ", b"\x1c\x47\x02\x09"),
        ("utf8mb4_unicode_ci", -1, "A ", b"\x0e\x33"),
        ("gbk_chinese_ci", -1, "a中", b"A\xd3\x21"),
    ],
)
def test_rows_are_found_by_the_weights_of_their_key(
    collate: str, length: int, value: str, key: bytes
) -> None:
    table = clustered_by_text(collate, length)
    (inserted,) = insert_text(table, key, value)
    assert inserted[-1] == value
    (deleted,) = versions(table, [delete(row(table, value))])
    assert inserted[1] == deleted[1]


@pytest.mark.parametrize(
    ("collate", "length", "in_handle", "in_row"),
    [
        # Without the new collations, keys contain the strings, and rows need not repeat them.
        (BIN, -1, "a ", "a "),
        (BIN, -1, "a ", None),
        (BIN, 3, "ab ", "ab cd"),
        ("utf8mb4_general_ci", -1, "ab", "ab"),
        ("utf8mb4_general_ci", -1, "ab", None),
        ("utf8mb4_general_ci", -1, "", None),
        ("utf8mb4_general_ci", 1, "a", "ab"),
        # Weights of another version of a collation.
        ("utf8mb4_general_ci", -1, b"\0A\0C", "ab"),
    ],
)
def test_keys_that_weigh_otherwise_are_refused(
    collate: str, length: int, in_handle: str | bytes, in_row: str | None
) -> None:
    with pytest.raises(UnsupportedError, match=r"shop\.item: .* new_collations_enabled"):
        insert_text(clustered_by_text(collate, length), in_handle, in_row)


def test_an_update_cannot_move_a_row() -> None:
    with pytest.raises(UnsupportedError, match="handle"):
        versions(PLAIN, [update(row(PLAIN, 1, "one"), row(PLAIN, 2, "one"))])


def test_changes_are_divided_between_transactions() -> None:
    """The versions of the parts are those of the whole."""
    transactions = [
        [insert(PLAIN, handle, handle, "a") for handle in range(10 * number, 11 * number)]
        for number in range(1, 7)
    ]
    transactions.append([update(row(PLAIN, 60, "a"), row(PLAIN, 60, "b"))])
    transactions.append([delete(row(PLAIN, 20, "a")), delete(row(PLAIN, 60, "b"))])
    for parts in (1, 3, 100):
        assert sorted(versions(PLAIN, *transactions, parts=parts)) == versions(PLAIN, *transactions)
