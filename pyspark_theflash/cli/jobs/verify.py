"""The comparison with TiKV of `theflash verify`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.cli.jobs.arguments import tls_files
from pyspark_theflash.cli.jobs.ticker import Ticker, ticking
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.upkeep import SharedHold
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.replication.load.verify import TableCheck, held
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.schema.model import TableInfo


def compare(arguments: argparse.Namespace) -> bool:
    """Print the differences and a summary; return whether there are differences."""
    clock, store = SystemClock(), Path(arguments.store)
    tls = tls_files(arguments)
    with (
        open_snapshot(store, arguments.at) as snapshot,
        PDClient(tuple(arguments.pd.split(",")), tls, clock=clock) as pd,
        TiKVClient(pd, tls, clock=clock) as client,
        held(client, snapshot) as hold,
        ticking("comparing", clock) as ticker,
    ):
        tables = _chosen(snapshot, arguments.tables)
        rows = differences = 0
        for table in tables:
            seen = _Seen(table, hold, snapshot, ticker)
            check = TableCheck(snapshot, client, table, seen.add)
            differing = check.run()
            # Raises if TiKV may have collected versions meanwhile.
            hold.ensure(snapshot.snapshot_ts)
            for difference in differing:
                ticker.print(str(difference))
                differences += 1
            rows += check.rows
        verdict = f"{differences} ranges differ" if differences else "no difference"
        ticker.print(
            f"compared {rows:,} rows of {len(tables)} tables at {shown(snapshot.snapshot_ts)}: "
            f"{verdict}"
        )
    return differences > 0


def _chosen(snapshot: ReadSnapshot, patterns: Sequence[str]) -> list[TableInfo]:
    """Return the tables to compare. Raises the error of a table that cannot be read."""
    scope = TableScope(tuple(patterns))
    names = [t.full_name for t in snapshot.tables() if scope.contains(t.full_name)]
    if patterns and not names:
        raise OptionError("tables", "matches no table of the store")
    return [snapshot.table(name) for name in names]


class _Seen:
    """Progress of one table; renews the hold as well."""

    def __init__(
        self, table: TableInfo, hold: SharedHold, snapshot: ReadSnapshot, ticker: Ticker
    ) -> None:
        self._table, self._hold, self._snapshot, self._ticker = table, hold, snapshot, ticker
        self._rows = 0

    def add(self, rows: int) -> None:
        """Count rows of either side."""
        self._rows += rows
        self._hold.follow(lambda: self._snapshot.snapshot_ts)
        self._ticker.note(f"comparing {self._table.full_name}: {self._rows:,} rows of both sides")
