"""Physical tables that are set aside."""

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import Generation, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.store.aside import (
    ASIDE_KIND,
    Aside,
    asides_of,
    check_asides,
    set_aside,
)
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent

ONE, OTHER, APART = map(PhysicalTableID, (1, 2, 3))
EARLY = Aside(OTHER, TimeStamp(20), "d.old", "early")
LATE = Aside(ONE, TimeStamp(30), "d.t", "late")


def view(*records: Record) -> View:
    return View(Generation(1), {ASIDE_KIND: {record.key: record.body for record in records}})


def test_a_read_names_the_first_commit_that_is_not_known() -> None:
    asides = asides_of(view(LATE.to_record(), EARLY.to_record()))
    assert asides == {ONE: LATE, OTHER: EARLY}
    for ids, ts, reason in (
        ([ONE, OTHER], 40, "early"),
        ([ONE, OTHER], 20, "early"),
        ([ONE, APART], 30, "late"),
        ([ONE, OTHER], 19, None),
        ([ONE], 29, None),
        ([APART], 40, None),
    ):
        error = set_aside(asides, "d.t", ids, TimeStamp(ts))
        assert (error and error.reason) == reason


def test_fsck_knows_records_of_no_table() -> None:
    table = table_info(ONE, "d.t", [column("a", MySQLType.LONG)])
    event = TableEvent(TimeStamp(10), "d", table.id, table)
    history = SchemaHistory(TimeStamp(10), TimeStamp(90), [event], ())
    records = view(LATE.to_record(), EARLY.to_record())
    assert [str(damage) for damage in check_asides(records, history)] == [
        "record aside 2: d.old is set aside, but is not a table of the stream at byte 0"
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b'["1", "d.t", "why"]', b'[1, "d.t"]'])
def test_a_record_that_is_none_is_told(body: bytes) -> None:
    with pytest.raises(CodecError, match="aside record"):
        asides_of(view(Record(ASIDE_KIND, "1", body)))
