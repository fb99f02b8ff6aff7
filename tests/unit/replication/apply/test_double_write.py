"""First and second writes during REORGANIZE PARTITION are distinguished by their order."""

import pytest

from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.replication.apply.double_write import RowChange, second_writes
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE

# Unchanged partitions, two that are reorganised, and two new ones.
STAYS, OLD, OTHER, NEW, NEXT = map(PhysicalTableID, (1, 2, 3, 11, 12))
NOWHERE = PhysicalTableID(0)


def came(handle: int, new: int, again: int = 0, body: bytes = b"row") -> RowChange:
    return RowChange(
        INSERT, body, handle, new=PhysicalTableID(new), new_again=PhysicalTableID(again)
    )


def went(handle: int, old: int, again: int = 0) -> RowChange:
    return RowChange(
        DELETE_ROW, b"old", handle, old=PhysicalTableID(old), old_again=PhysicalTableID(again)
    )


def changed(
    handle: int,
    old: int,
    new: int,
    old_again: int = 0,
    new_again: int = 0,
    body: bytes = b"oldrow",
) -> RowChange:
    ids = map(PhysicalTableID, (old, new, old_again, new_again))
    return RowChange(UPDATE, body, handle, *ids)


def strict(changes: list[RowChange], *, is_delete_only: bool = False) -> list[bool] | None:
    return second_writes(changes, is_delete_only=is_delete_only, has_unique_key=False)


def lenient(changes: list[RowChange]) -> list[bool] | None:
    return second_writes(changes, is_delete_only=False, has_unique_key=True)


ONCE_AND_AGAIN = {
    "insert": ([came(7, OLD, NEW)], [came(8, OLD, NEW)]),
    "delete": ([went(7, OLD, NEW)], [went(7, OLD, NEW)]),
    "update": ([changed(7, OLD, OLD, NEW, NEW)], [changed(7, OLD, OLD, NEW, NEW)]),
    "update to another new partition": (
        [changed(7, OLD, OLD, NEW, NEXT)],
        [came(9, OLD, NEXT), went(7, OLD, NEW)],
    ),
    "update to another old partition": (
        [came(8, OTHER, NEW), went(7, OLD, NEW)],
        [changed(7, OLD, OTHER, NEW, NEW)],
    ),
    "update to other old and new partitions": (
        [came(8, OTHER, NEXT), went(7, OLD, NEW)],
        [came(9, OTHER, NEXT), went(7, OLD, NEW)],
    ),
    "update into the reorganised ones": (
        [came(8, OLD, NEW), went(7, STAYS)],
        [came(9, OLD, NEW)],
    ),
    "update out of the reorganised ones": (
        [came(8, STAYS), went(7, OLD, NEW)],
        [went(7, OLD, NEW)],
    ),
    "changes elsewhere": ([came(7, STAYS), changed(7, STAYS, STAYS), went(7, STAYS)], []),
}


@pytest.mark.parametrize(("once", "again"), ONCE_AND_AGAIN.values(), ids=[*ONCE_AND_AGAIN])
def test_what_is_done_once_and_again(once: list[RowChange], again: list[RowChange]) -> None:
    changes = [*once, *again]
    is_again = strict([*changes, *changes])
    assert is_again == [*[False] * len(once), *[True] * len(again)] * 2


def test_at_first_an_update_only_deletes_in_another_new_partition() -> None:
    changes = [
        changed(7, OLD, OLD, NEW, NEXT),
        went(7, OLD, NEW),
        came(8, OTHER, NEXT),
        went(5, STAYS),
        came(6, OLD, NEW),
        came(9, OLD, NEW),
    ]
    is_again = strict(changes, is_delete_only=True)
    assert is_again == [False, True, False, False, False, True]
    assert strict(changes) is None


@pytest.mark.parametrize(
    "changes",
    [
        [came(7, OLD, NEW)],
        [came(7, OLD, NEW), came(8, OLD, NEXT)],
        [came(7, OLD, NEW), came(8, OLD, NEW, body=b"another")],
        [went(7, OLD, NEW), went(8, OLD, NEW)],
        [changed(7, OLD, OTHER, NEW, NEW)],
        [changed(7, OLD, OLD, NEW, NEW), went(7, OLD, NEW)],
    ],
)
def test_what_tidb_does_not_do(changes: list[RowChange]) -> None:
    assert strict(changes) is None


@pytest.mark.parametrize(
    "once",
    [
        [went(7, OLD, NEW)],
        [changed(7, OLD, OLD, NEW, NEW)],
        [changed(7, OLD, OLD, NEW, NEXT)],
        [came(8, OTHER, NEW), went(7, OLD, NEW)],
        [came(8, OLD, NEW), went(7, STAYS)],
    ],
    ids=["REPLACE", "update", "to another new one", "to another old one", "from elsewhere"],
)
def test_what_a_unique_key_may_leave_out(once: list[RowChange]) -> None:
    """REPLACE, and IGNORE: TiDB has the rows in one of the two partitions only."""
    twice = [came(20, OLD, NEW, body=b"new"), came(21, OLD, NEW, body=b"new")]
    for changes in ([*once, *twice], [*twice, *once]):
        assert strict(changes) is None
    assert lenient([*once, *twice, *once]) == [
        *([False] * len(once)),
        False,
        True,
        *([False] * len(once)),
    ]


def test_what_fits_a_second_write_is_one_also_where_it_may_be_left_out() -> None:
    for once, again in ONCE_AND_AGAIN.values():
        assert lenient([*once, *again]) == [*[False] * len(once), *[True] * len(again)]
    one, other = changed(7, OLD, OLD, NEW, NEW), changed(7, OLD, OLD, NEW, NEW, body=b"another")
    assert lenient([one, other, other, one]) == [False, False, True, False]
    assert lenient([came(7, OLD, NEW)]) is None, "an error of INSERT ends the statement"
