"""DDL of every kind for a real TiDB, and recordings of its tables and answers.

    python -m tests.support.live_schema FILE    run STEPS on a real TiDB and record

A recording is JSON, gzipped: `reads`, each with `at_least` and the answers by path in the order in
which they were asked for, and `truth`, each with a timestamp and the tables that TiDB showed then.
"""

import gzip
import json
import sys
import tempfile
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.tidb.codec.field_type import ColumnFlag
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tidb.schema.status_api import StatusApi
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.mysql import MySqlConnection, MySqlError
from tests.support.peer import Peer
from tests.support.schema import tables_at

RECORDING: Final = Path(__file__).parents[1] / "golden" / "tidb_status" / "ddl.json.gz"

STEPS: Final = (
    "CREATE DATABASE shop",
    "CREATE DATABASE `a b%ü`",
    "CREATE TABLE shop.t (a INT PRIMARY KEY, b VARCHAR(9), c ENUM('x', 'y') NOT NULL)",
    "ALTER TABLE shop.t ADD COLUMN d INT NOT NULL DEFAULT 5 FIRST",
    "INSERT INTO shop.t VALUES (1, 2, '3', 'x')",
    "ALTER TABLE shop.t MODIFY COLUMN b INT",
    "ALTER TABLE shop.t CHANGE COLUMN d e BIGINT",
    "ALTER TABLE shop.t ADD COLUMN f JSON, DROP COLUMN c, ADD INDEX i (e)",
    "ALTER TABLE shop.t DROP COLUMN nothing",
    "RENAME TABLE shop.t TO `a b%ü`.`Ümläut`",
    "CREATE TABLE shop.p (a INT, b INT) PARTITION BY RANGE (a) "
    "(PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20))",
    "ALTER TABLE shop.p ADD PARTITION (PARTITION p2 VALUES LESS THAN (30))",
    "ALTER TABLE shop.p TRUNCATE PARTITION p0",
    "CREATE TABLE shop.x (a INT, b INT)",
    "INSERT INTO shop.x VALUES (12, 1)",
    "ALTER TABLE shop.p EXCHANGE PARTITION p1 WITH TABLE shop.x",
    "ALTER TABLE shop.p REORGANIZE PARTITION p2 INTO "
    "(PARTITION p2 VALUES LESS THAN (25), PARTITION p3 VALUES LESS THAN (30))",
    "ALTER TABLE shop.p DROP PARTITION p0",
    "INSERT INTO shop.p VALUES (12, 2), (13, 2)",
    "ALTER TABLE shop.x ADD UNIQUE (b)",
    "INSERT INTO shop.x VALUES (1, 7), (2, 7)",
    "ALTER TABLE shop.x ADD UNIQUE u (b)",
    "CREATE TABLE shop.q (a INT PRIMARY KEY)",
    "CREATE TABLE shop.r (a INT, q INT, FOREIGN KEY (q) REFERENCES shop.q (a))",
    "CREATE TABLE shop.c (a VARCHAR(5), b INT, PRIMARY KEY (a, b) CLUSTERED)",
    "TRUNCATE TABLE shop.c",
    "RENAME TABLE shop.c TO `a b%ü`.c, shop.x TO shop.y",
    "CREATE VIEW shop.v AS SELECT a FROM shop.q",
    "CREATE OR REPLACE VIEW shop.v AS SELECT a, a + 1 AS b FROM shop.q",
    "CREATE SEQUENCE shop.s",
    "ALTER TABLE shop.q COMMENT 'n'",
    "ALTER TABLE shop.y RENAME TO shop.z",
    "DROP TABLE shop.r, shop.q",
    "DROP VIEW shop.v",
    "DROP SEQUENCE shop.s",
    "RECOVER TABLE shop.q",
    "DROP DATABASE `a b%ü`",
    "CREATE DATABASE `a b%ü`",
    "CREATE TABLE `a b%ü`.c (a INT)",
    "DROP DATABASE shop",
    "FLASHBACK DATABASE shop",
)
"""Some of these fail; failed jobs leave traces too."""

Shown = list[tuple[str, str, int, list[tuple[str, bool]], list[tuple[str, int]]]]
"""Tables by name: database, name, id, columns (name, nullable), partitions (name, id)."""

_USER_SCHEMAS: Final = (
    "table_schema NOT IN ('mysql', 'INFORMATION_SCHEMA', 'METRICS_SCHEMA', 'PERFORMANCE_SCHEMA')"
)


def run(session: MySqlConnection, statement: str) -> None:
    """A step, which may fail."""
    try:
        session.query(statement)
    except MySqlError:
        return


def shown_by_tidb(session: MySqlConnection) -> Shown:
    """Return the base tables that TiDB shows now.

    It shows some twice (the first table of a RENAME TABLE over databases), hence DISTINCT.
    """
    columns: dict[tuple[str | None, ...], list[tuple[str, bool]]] = defaultdict(list)
    for *table, column, nullable, _ in session.query(
        "SELECT DISTINCT table_schema, table_name, column_name, is_nullable, ordinal_position "
        "FROM information_schema.columns "
        f"WHERE {_USER_SCHEMAS} ORDER BY ordinal_position"
    ):
        columns[tuple(table)].append((str(column), nullable == "YES"))
    partitions: dict[tuple[str | None, ...], list[tuple[str, int]]] = defaultdict(list)
    for *table, partition, physical_id, _ in session.query(
        "SELECT DISTINCT table_schema, table_name, partition_name, tidb_partition_id, "
        "partition_ordinal_position "
        f"FROM information_schema.partitions WHERE {_USER_SCHEMAS} AND partition_name IS NOT NULL "
        "ORDER BY partition_ordinal_position"
    ):
        partitions[tuple(table)].append((str(partition), int(physical_id or 0)))
    tables = session.query(
        "SELECT DISTINCT table_schema, table_name, tidb_table_id FROM information_schema.tables "
        f"WHERE {_USER_SCHEMAS} AND table_type = 'BASE TABLE'"
    )
    return sorted(
        (str(db), str(name), int(table_id or 0), columns[db, name], partitions[db, name])
        for db, name, table_id in tables
    )


def shown_by_history(history: SchemaHistory, ts: int) -> Shown:
    """Return the same from a schema history."""
    tables = [t for t in tables_at(history, TimeStamp(ts)) if _is_base_table(t)]
    return sorted(
        (
            t.db,
            t.name,
            int(t.id),
            [(c.name, not c.type.flag & ColumnFlag.NOT_NULL) for c in t.public_columns],
            [(d.name, int(d.id)) for d in (t.partition.definitions if t.partition else ())],
        )
        for t in tables
    )


class ReplayedApi(StatusApi):
    """A status API whose answers were recorded."""

    def __init__(self, reads: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("http://recorded:1", SystemClock())
        self._reads = iter(reads)
        self._answers: dict[str, deque[Any]] = {}

    def next_read(self) -> TimeStamp:
        """Use the answers of the next read; return its `at_least`."""
        read = next(self._reads)
        self._answers = {path: deque(answers) for path, answers in read["answers"].items()}
        return TimeStamp(read["at_least"])

    def get(self, path: str) -> Any:
        return self._answers[path].popleft()


class _RecordingApi(StatusApi):
    def __init__(self, url: str) -> None:
        super().__init__(url, SystemClock())
        self.answers: dict[str, list[Any]] = defaultdict(list)

    def get(self, path: str) -> Any:
        answer = super().get(path)
        self.answers[path].append(answer)
        return answer


def _is_base_table(table: TableInfo) -> bool:
    info = json.loads(table.json_text)
    return not info.get("view") and not info.get("sequence")


def main() -> None:
    """Record."""
    reads, truth = [], []
    history = None
    with (
        tempfile.TemporaryDirectory() as folder,
        Peer(Path(folder)) as peer,
        peer.connect() as session,
    ):
        for number, step in enumerate(["", *STEPS]):
            if step:
                run(session, step)
            at_least = TimeStamp(peer.tso())
            truth.append({"ts": at_least, "tables": shown_by_tidb(session)})
            # Several changes between two reads, too.
            if number % 4 == 0 or number == len(STEPS):
                with closing(_RecordingApi(peer.status_url)) as api:
                    history = TidbSchemaSource(api, SystemClock()).read(at_least, history)
                reads.append({"at_least": at_least, "answers": api.answers})
    document = json.dumps({"reads": reads, "truth": truth}, ensure_ascii=False)
    Path(sys.argv[1]).write_bytes(gzip.compress(document.encode(), mtime=0))


if __name__ == "__main__":
    main()
