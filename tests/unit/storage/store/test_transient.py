"""The transient records: all that were put, or an error."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.manifest import DATABASE, Manifest
from pyspark_theflash.storage.store.transient import COMMAND_KIND, LATCH_KIND

ROWS = {"a": b"first", "b": b"second"}


@pytest.fixture
def manifest(store: Path) -> Iterator[Manifest]:
    with closing(open_manifest(store, LocalFileSystem())) as opened:
        with transient.opened(opened, write=True) as rows:
            for key, body in ROWS.items():
                rows.put(LATCH_KIND, key, body)
        yield opened


def run_sql(store: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(store / DATABASE, isolation_level=None)) as db:
        db.execute(statement, values)


def test_rows_come_and_go(manifest: Manifest) -> None:
    generation = manifest.head().generation
    with transient.opened(manifest, write=True) as rows:
        assert rows.rows(LATCH_KIND) == ROWS
        assert (rows.row(LATCH_KIND, "a"), rows.row(COMMAND_KIND, "a")) == (b"first", None)
        rows.put(LATCH_KIND, "a", b"other")
        assert rows.remove(LATCH_KIND, "b")
        assert not rows.remove(LATCH_KIND, "b")
    with transient.opened(manifest, write=False) as rows:
        assert rows.rows(LATCH_KIND) == {"a": b"other"}
        assert rows.rows(COMMAND_KIND) == {}
    assert manifest.head().generation == generation


@pytest.mark.parametrize("column", ["key", "body", "checksum"])
def test_every_bit_of_a_row_counts(store: Path, manifest: Manifest, column: str) -> None:
    old = {"key": b"a", "body": ROWS["a"]}.get(column)
    with closing(sqlite3.connect(store / DATABASE)) as db:
        stored = db.execute(f"SELECT {column} FROM board WHERE key = 'a'").fetchone()[0]
    value = stored.encode() if isinstance(stored, str) else stored
    assert old in (None, value)
    for bit in range(len(value) * 8):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        as_stored = "CAST(? AS TEXT)" if column == "key" else "?"
        where = "WHERE body = ?" if column == "key" else "WHERE key = ?"
        which = ROWS["a"] if column == "key" else "a"
        statement = f"UPDATE board SET {column} = {as_stored} {where}"
        run_sql(store, statement, bytes(damaged), which)
        with pytest.raises(CorruptionError), transient.opened(manifest, write=False) as rows:
            rows.rows(LATCH_KIND)
        if column != "key":
            with pytest.raises(CorruptionError), transient.opened(manifest, write=False) as rows:
                rows.row(LATCH_KIND, "a")
        run_sql(store, statement, value, which)
    with transient.opened(manifest, write=False) as rows:
        assert rows.rows(LATCH_KIND) == ROWS


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM board WHERE key = 'a'",
        "DELETE FROM board",
        "UPDATE board SET kind = 'command' WHERE key = 'a'",
        "UPDATE board SET body = 'first' WHERE key = 'a'",
        "INSERT INTO board SELECT kind, 'c', body, checksum FROM board WHERE key = 'a'",
        "UPDATE board_sum SET total = zeroblob(16) WHERE kind = 'latch'",
        "UPDATE board_sum SET checksum = zeroblob(16) WHERE kind = 'latch'",
        "DELETE FROM board_sum WHERE kind = 'latch'",
        "DROP TABLE board",
        "DROP TABLE board_sum",
    ],
)
def test_what_was_changed_behind_its_back_shows(
    store: Path, manifest: Manifest, statement: str
) -> None:
    run_sql(store, statement)
    with pytest.raises(CorruptionError), transient.opened(manifest, write=False) as rows:
        rows.rows(LATCH_KIND)


def test_damage_to_one_row_leaves_the_others(store: Path, manifest: Manifest) -> None:
    run_sql(store, "UPDATE board SET body = x'00' WHERE key = 'a'")
    with transient.opened(manifest, write=True) as rows:
        assert rows.row(LATCH_KIND, "b") == b"second"
        rows.put(LATCH_KIND, "c", b"third")
        assert rows.remove(LATCH_KIND, "b")
    with pytest.raises(CorruptionError), transient.opened(manifest, write=False) as rows:
        rows.rows(LATCH_KIND)
