"""The captured suite: every type and kind of DDL, as TiDB shows them in the end."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.clock import SystemClock
from pyspark_theflash.engine import registry
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.planner.snapshot import open_snapshot
from pyspark_theflash.replication.writer import Writer
from tests.support.suite import DATABASE, SuiteSchema, SuiteSource, final_tables, read_steps

FINAL = final_tables()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, fs = tmp_path_factory.mktemp("suite") / "store", LocalFileSystem()
    identity = registry.create(path, registry.MAGIC, fs)
    steps = read_steps()
    with closing(registry.open_engine(path, identity, fs, SystemClock())) as engine:
        writer = Writer(engine, SuiteSchema(steps))
        writer.run_once(SuiteSource(steps), until_ts=steps[-1].commit_ts)
    return path


def comparable(value: Any) -> Any:
    """A client's value, or our text of it, in one form."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if value is None or isinstance(value, bytes):
        return value
    text = str(value)
    if "." in text and ":" in text:
        text = text.rstrip("0").rstrip(".")
    try:
        return float(text)
    except ValueError:
        return text


@pytest.mark.parametrize("table", sorted(FINAL))
def test_the_end_is_what_tidb_shows(table: str, store: Path) -> None:
    expected = FINAL[table]
    with open_snapshot(store) as snapshot:
        plan = snapshot.plan(f"{DATABASE}.{table}", expected["cols"])
        columns = list(zip(*snapshot.texts(plan), strict=True))
    rows = [tuple(v for part in column for v in part.to_pylist()) for column in columns]
    found = Counter(tuple(map(comparable, row)) for row in zip(*rows, strict=True))
    assert found == Counter(tuple(map(comparable, row)) for row in expected["rows"])


def test_no_other_tables_are_there(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        assert {t.name for t in snapshot.tables()} == set(FINAL)
