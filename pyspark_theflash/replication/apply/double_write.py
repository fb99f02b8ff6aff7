"""Detect the double writes of TiDB during REORGANIZE PARTITION in its binlog.

TiDB repeats each write to a partition that is being reorganised in the new partition of the row. A
binlog contains both writes in sequence, and names neither partition. In tables with `_tidb_rowid`
the second insert gets another id than the first, so the two are different rows:

    INSERT                          insert 7 (old partition)    insert 8 (new partition)
    UPDATE                          update 7                    update 7
    UPDATE, other new partition     update 7                    insert 9, delete 7
    UPDATE, other old partition     insert 8, delete 7          update 7, or insert 9, delete 7
    DELETE                          delete 7                    delete 7

In the first state of the DDL, delete-only, an update that moves a row to another new partition only
deletes there. In the last state the new partitions are written first and the old ones second. See
TiDB's `table/tables/partition.go` (6.6 to 7.0). Rows with a clustered key have the same key in both
partitions, so the two writes need not be distinguished.

In a table with a unique key, some statements may omit the second write, so that TiDB itself has the
row in one partition only:

    REPLACE           deletes conflicting rows in the partition where it finds them
    UPDATE IGNORE,    report a duplicate key in the other partition as a warning, and keep the
    INSERT IGNORE     write to the first
     ... ON DUPLICATE KEY UPDATE
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE, TableMutations
from pyspark_theflash.tidb.codec.number import decode_varint
from pyspark_theflash.tidb.schema.model import TableInfo

NOWHERE: Final = PhysicalTableID(0)


@dataclass(frozen=True, slots=True)
class RowChange:
    """One change of the binlog, and its partitions.

    `body` is the encoded row without an insert's handle. `old` and `new` are the partitions of the
    row before and after the change; `old_again` and `new_again` those of its second write, or
    NOWHERE.
    """

    kind: int
    body: bytes
    handle: int
    old: PhysicalTableID = NOWHERE
    new: PhysicalTableID = NOWHERE
    old_again: PhysicalTableID = NOWHERE
    new_again: PhysicalTableID = NOWHERE


def second_writes(
    changes: Sequence[RowChange], *, is_delete_only: bool, has_unique_key: bool
) -> list[bool] | None:
    """Return for each change of a transaction whether it is a second write.

    None if the changes do not match the pattern of double writes. Changes that match the expected
    second writes are second writes, even if these may be omitted: a deleted row is not changed
    again, and a unique key prevents inserting a row twice.
    """
    is_second: list[bool] = []
    while (at := len(is_second)) < len(changes):
        count = _is_move(changes[at : at + 2]) + 1
        expected = _second_of(changes[at : at + count], is_delete_only=is_delete_only)
        actual = changes[at + count : at + count + len(expected)]
        if len(actual) < len(expected) or not all(map(_matches, actual, expected)):
            is_insert = count == 1 and changes[at].kind == INSERT
            if is_insert or not has_unique_key or _IMPOSSIBLE in expected:
                return None
            expected = []
        is_second += [False] * count + [True] * len(expected)
    return is_second


def repeats_itself(table: TableInfo, mutations: TableMutations) -> bool:
    """Return whether a transaction contains a change that proves double writes.

    Without double writes, the same update or delete does not occur twice in succession, nor the
    same insert into a table with a primary key.
    """
    rows = {
        INSERT: map(body_of_insert, mutations.inserted),
        UPDATE: iter(mutations.updated),
        DELETE_ROW: iter(mutations.deleted),
    }
    changes = [(kind, next(rows[kind])) for kind in mutations.sequence.tolist()]
    return any(
        one == other and (one[0] != INSERT or table.primary_key is not None)
        for one, other in pairwise(changes)
    )


def body_of_insert(insert: bytes) -> bytes:
    """Return an inserted row without its `_tidb_rowid` prefix, a flag and a varint.

    Raises:
        CodecError: The bytes end within the prefix.
    """
    return insert[decode_varint(insert, 1)[1] :]


def handle_of_insert(insert: bytes) -> int:
    """Decode the `_tidb_rowid` that prefixes an inserted row.

    Raises:
        CodecError: The bytes end within the prefix.
    """
    return decode_varint(insert, 1)[0]


def _is_move(pair: Sequence[RowChange]) -> bool:
    """Return whether two changes are an update that moves a row to another old partition.

    Any other insert into a partition being reorganised is followed by its second write. If the new
    partition is not reorganised, the pair is handled as an insert and an independent delete.
    """
    kinds = [change.kind for change in pair]
    return kinds == [INSERT, DELETE_ROW] and pair[0].new_again != NOWHERE


def _second_of(first: Sequence[RowChange], *, is_delete_only: bool) -> list[RowChange]:
    """Return the expected second writes of a row's first write."""
    change = first[-1]
    old_again, new_again = change.old_again, first[0].new_again
    is_update = len(first) > 1 or change.kind == UPDATE
    if len(first) == 1 and is_update and change.old != change.new:
        return [_IMPOSSIBLE]
    if old_again == new_again != NOWHERE:
        body = change.body if change.kind == UPDATE else b""
        return [RowChange(UPDATE, body, change.handle, old_again=old_again, new_again=new_again)]
    second = []
    if new_again != NOWHERE and not (is_delete_only and is_update):
        body = first[0].body if first[0].kind == INSERT else b""
        second.append(RowChange(INSERT, body, 0, new_again=new_again))
    if old_again != NOWHERE:
        second.append(RowChange(DELETE_ROW, b"", change.handle, old_again=old_again))
    return second


def _matches(change: RowChange, expected: RowChange) -> bool:
    return (
        (change.kind, change.old_again, change.new_again)
        == (expected.kind, expected.old_again, expected.new_again)
        and expected.body in (b"", change.body)
        and (change.kind == INSERT or change.handle == expected.handle)
    )


_IMPOSSIBLE: Final = RowChange(-1, b"", 0)
