"""Rows that TiDB writes twice while REORGANIZE PARTITION runs, as its binlog has them.

What is done to a partition that is being reorganised is done again to the one that will have the
row. A binlog has both, one after the other, and names neither partition. Where rows have a
`_tidb_rowid`, the second insert has another than the first, so the two are two rows:

    INSERT                          insert 7 (old partition)    insert 8 (new partition)
    UPDATE                          update 7                    update 7
    UPDATE, other new partition     update 7                    insert 9, delete 7
    UPDATE, other old partition     insert 8, delete 7          update 7, or insert 9, delete 7
    DELETE                          delete 7                    delete 7

In the first state of the DDL, delete-only, an update that moves a row to another new partition only
deletes there. In the last state the new partitions come first and the old ones second. As in
TiDB's `table/tables/partition.go` (6.6 to 7.0). Rows with a clustered key have one key in both
partitions; there nothing needs to be told apart.

Where a table has a unique key, two statements may leave out the second write, so that TiDB itself
has the row in one partition only:

    REPLACE           deletes the rows that are in its way in the partition where it finds them
    UPDATE IGNORE,    make a warning of a key that is there already in the other partition, and
    INSERT IGNORE     keep what they have done in the first
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
    """One change as the binlog has it, and where it goes.

    `body` is the encoded row without an insert's handle. `old` and `new` are the partitions of the
    row before and after; `old_again` and `new_again` those that it is written to a second time, or
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
    """Which changes of one transaction are second writes; None if they fit no such transaction.

    What fits a second write is one, also where it may be left out: a row that is gone is not
    changed again, and no row comes twice where a unique key is in the way of one.
    """
    found: list[bool] = []
    while (at := len(found)) < len(changes):
        once = _is_move(changes[at : at + 2]) + 1
        expected = _again(changes[at : at + once], is_delete_only=is_delete_only)
        again = changes[at + once : at + once + len(expected)]
        if len(again) < len(expected) or not all(map(_fits, again, expected)):
            is_insert = once == 1 and changes[at].kind == INSERT
            if is_insert or not has_unique_key or _IMPOSSIBLE in expected:
                return None
            expected = []
        found += [False] * once + [True] * len(expected)
    return found


def repeats_itself(table: TableInfo, mutations: TableMutations) -> bool:
    """Whether a transaction does what is possible only where rows are written twice.

    An update that changes a row, or its deletion, does not happen twice in a row, nor is a row
    inserted again that has a primary key.
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
    """An inserted row without the `_tidb_rowid` before it, a flag and a varint.

    Raises:
        CodecError: the bytes end within it.
    """
    return insert[decode_varint(insert, 1)[1] :]


def handle_of_insert(insert: bytes) -> int:
    """The `_tidb_rowid` before an inserted row.

    Raises:
        CodecError: the bytes end within it.
    """
    return decode_varint(insert, 1)[0]


def _is_move(pair: Sequence[RowChange]) -> bool:
    """Whether a row is inserted that an update has moved there from another old partition.

    Any other insert into a partition that is reorganised is followed by the second one. Where the
    row goes to a partition that is not, the two are the same as an insert and a deletion.
    """
    kinds = [change.kind for change in pair]
    return kinds == [INSERT, DELETE_ROW] and pair[0].new_again != NOWHERE


def _again(once: Sequence[RowChange], *, is_delete_only: bool) -> list[RowChange]:
    """The writes that follow a row's first one."""
    change = once[-1]
    old_again, new_again = change.old_again, once[0].new_again
    is_update = len(once) > 1 or change.kind == UPDATE
    if len(once) == 1 and is_update and change.old != change.new:
        return [_IMPOSSIBLE]
    if old_again == new_again != NOWHERE:
        body = change.body if change.kind == UPDATE else b""
        return [RowChange(UPDATE, body, change.handle, old_again=old_again, new_again=new_again)]
    found = []
    if new_again != NOWHERE and not (is_delete_only and is_update):
        body = once[0].body if once[0].kind == INSERT else b""
        found.append(RowChange(INSERT, body, 0, new_again=new_again))
    if old_again != NOWHERE:
        found.append(RowChange(DELETE_ROW, b"", change.handle, old_again=old_again))
    return found


def _fits(change: RowChange, expected: RowChange) -> bool:
    return (
        (change.kind, change.old_again, change.new_again)
        == (expected.kind, expected.old_again, expected.new_again)
        and expected.body in (b"", change.body)
        and (change.kind == INSERT or change.handle == expected.handle)
    )


_IMPOSSIBLE: Final = RowChange(-1, b"", 0)
