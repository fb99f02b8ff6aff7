"""Random conditions on a live TiDB and on a store that a writer makes of its binlog.

    python -m tests.support.live_where FILE     record a table and TiDB's answers

A recording is JSON, gzipped: `table_info`, `rows` (texts as SELECT prints them, bytes as
`{"x": hex}`), and `answers`: conditions, each with the ids of the rows that TiDB finds.
"""

import gzip
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.plan.wait import wait_until
from tests.support.golden_vectors import VECTORS
from tests.support.live_writer import following
from tests.support.mysql import MySqlConnection, MySqlError
from tests.support.peer import Peer
from tests.support.where_cases import CASES, condition, create_table, insert_rows

RECORDING: Final = VECTORS / "where.json.gz"
ROWS: Final = 120
_TABLE: Final = "w.t"
_RECORDED: Final = 1500
_CLOCK: Final = SystemClock()
Answer = frozenset[int] | str
"""The ids of rows, or the reason why there are none."""


class LiveWhere:
    """The table in TiDB and in the store."""

    def __init__(self, session: MySqlConnection, snapshot: ReadSnapshot) -> None:
        self._session, self._snapshot = session, snapshot

    def theirs(self, text: str) -> Answer:
        """The result in TiDB."""
        try:
            rows = self._session.query(f"SELECT id FROM {_TABLE} WHERE {text}")
        except MySqlError as error:
            return error.message
        return frozenset(int(row[0] or 0) for row in rows)

    def ours(self, text: str) -> Answer:
        """The result of a scan, or its typed error."""
        try:
            batches = list(self._snapshot.scan(_TABLE, ["id"], where=text))
        except TheFlashError as error:
            return str(error)
        return frozenset(row for batch in batches for row in batch.column(0).to_pylist())

    def recorded(self) -> dict[str, Any]:
        """Return a recording without its `table_info`."""
        random = [condition(Random(f"recorded {number}")) for number in range(_RECORDED)]
        answers = [(text, self.theirs(text)) for text in [*CASES, *random]]
        return {
            "rows": [list(map(_value, row)) for row in self._session.query("SELECT * FROM w.t")],
            "answers": [(text, sorted(ids)) for text, ids in answers if not isinstance(ids, str)],
        }


@contextmanager
def live_where(peer: Peer, store: Path, seed: str) -> Iterator[LiveWhere]:
    """A new table with rows of a seed, as of now."""
    with peer.connect() as session:
        session.query("SET time_zone = '+00:00'")
        session.query("SET sql_mode = ''")
        session.query("CREATE DATABASE IF NOT EXISTS w")
        session.query(f"DROP TABLE IF EXISTS {_TABLE}")
        session.query(create_table(_TABLE))
        session.query(insert_rows(_TABLE, Random(seed), ROWS))
        session.query("SET sql_mode = DEFAULT")
        ts = TimeStamp(peer.tso())
        deadline_ms = _CLOCK.boottime_ms() + 60_000
        wait_until(store, ts, deadline_ms, clock=_CLOCK, fs=LocalFileSystem())
        with open_snapshot(store, ts) as snapshot:
            yield LiveWhere(session, snapshot)


def _value(value: str | None) -> Any:
    """Return a text, or bytes that are not one."""
    if value is None or not any("\udc80" <= c <= "\udcff" or c < " " for c in value):
        return value
    return {"x": value.encode(errors="surrogateescape").hex()}


def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        with following(Path(folder), store) as peer, live_where(peer, store, "recorded") as live:
            document = {"table_info": peer.status("/schema/w/t"), **live.recorded()}
    text = json.dumps(document, ensure_ascii=False)
    Path(sys.argv[1]).write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
