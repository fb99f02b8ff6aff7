"""The captured suite through Spark: every type and kind of DDL, as TiDB shows them in the end."""

import pytest

from tests.support.suite import DATABASE, as_multiset, final_tables

FINAL = final_tables()


@pytest.fixture(params=["jar", "python"])
def rows(request, suite_store):
    """table, columns, options -> the rows that Spark has, as dictionaries."""
    source = request.getfixturevalue(request.param)

    def rows(table, columns, **options):
        reader = source.reader(suite_store, **options)
        frame = reader.option("columns", ",".join(columns)).load(f"{DATABASE}.{table}")
        return frame.toArrow().to_pylist()

    return rows


@pytest.mark.parametrize("table", sorted(FINAL))
def test_the_end_is_what_tidb_shows(rows, table):
    columns = FINAL[table]["cols"]
    shown = rows(table, columns, all_as_text=True)
    assert as_multiset(row.values() for row in shown) == as_multiset(FINAL[table]["rows"])
