"""The captured suite: every type and kind of DDL, as TiDB shows them in the end."""

from pathlib import Path

import pytest

from pyspark_theflash.read.plan.snapshot import open_snapshot
from tests.support.suite import DATABASE, as_multiset, final_tables

FINAL = final_tables()


@pytest.mark.parametrize("table", sorted(FINAL))
def test_the_end_is_what_tidb_shows(table: str, suite_store: Path) -> None:
    expected = FINAL[table]
    with open_snapshot(suite_store) as snapshot:
        plan = snapshot.plan(f"{DATABASE}.{table}", expected["cols"])
        columns = list(zip(*snapshot.texts(plan), strict=True))
    values = [[v for part in column for v in part.to_pylist()] for column in columns]
    assert as_multiset(zip(*values, strict=True)) == as_multiset(expected["rows"])


def test_no_other_tables_are_there(suite_store: Path) -> None:
    with open_snapshot(suite_store) as snapshot:
        assert {t.name for t in snapshot.tables()} == set(FINAL)
