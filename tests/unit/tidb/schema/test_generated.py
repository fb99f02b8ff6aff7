"""Virtual columns that read other generated columns."""

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.generated import compute_column, stored_inputs
from pyspark_theflash.tidb.schema.model import TableInfo


def generated(name: str, text: str, *, stored: bool = False) -> dict[str, object]:
    properties = {"generated_expr_string": text, "generated_stored": stored}
    return {**column(name, MySQLType.LONGLONG), **properties}


def table(*columns: dict[str, object]) -> TableInfo:
    return table_info(7, "shop.item", [id_column("Id"), *columns])


TABLE = table(
    generated("kept", "`Id` * 10", stored=True),
    generated("next", "`id` + 1"),
    generated("sum", "`Next` + `kept` + `next`"),
    generated("five", "2 + 3"),
)
STORED = {ColumnID(1): pa.array([1, 2]), ColumnID(2): pa.array([100, None])}


def test_inputs_are_what_is_stored() -> None:
    names = [c.name for c in stored_inputs(TABLE, ["sum"])]
    assert names == ["Id", "kept"]
    assert stored_inputs(TABLE, ["five"]) == ()


def test_computed_through_other_virtual_columns() -> None:
    by_name = {c.name: c for c in TABLE.columns}
    assert compute_column(TABLE, by_name["sum"], STORED, 2).to_pylist() == [104, None]
    assert compute_column(TABLE, by_name["five"], {}, 2).to_pylist() == [5, 5]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ([generated("a", "`b`"), generated("b", "`a`")], "reads itself"),
        ([generated("a", "`gone` + 1")], "column gone"),
        ([generated("a", "uuid()")], "function UUID"),
    ],
)
def test_what_cannot_be_computed(columns: list[dict[str, object]], what: str) -> None:
    with pytest.raises(UnsupportedError, match=r"shop\.item") as refused:
        stored_inputs(table(*columns), ["a"])
    assert what in str(refused.value)
