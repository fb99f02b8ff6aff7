"""Compare tables of a store with TiKV on request; `check_process.py` does it in another process."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.replication.load.scan import ClusterAddress
from pyspark_theflash.replication.load.verify import TableCheck, held
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, TableEvent


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """The store and the cluster to compare."""

    store: Path
    cluster: ClusterAddress


@dataclass(frozen=True, slots=True)
class TablesToCheck:
    """The readable tables of a store, the smallest first, and a current timestamp of PD."""

    ts: TimeStamp
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedTable:
    """A table that was compared at a timestamp, and a text for each physical table that differs."""

    table_id: TableID
    ts: TimeStamp
    rows: int
    differences: tuple[tuple[PhysicalTableID, str], ...]


Answer: TypeAlias = TablesToCheck | CheckedTable | TheFlashError


def answer(
    request: CheckRequest, pd: PDClient, client: TiKVClient, table: str | None
) -> TablesToCheck | CheckedTable:
    """Answer a question. Raises the errors of both sides' reads."""
    if table is None:
        # The timestamp is that of the question: the store may not have reached it yet.
        ts = pd.tso()
        with open_snapshot(request.store) as snapshot:
            return TablesToCheck(ts, tuple(_readable(snapshot)))
    with open_snapshot(request.store) as snapshot, held(client, snapshot) as hold:
        info, ts = snapshot.table(table), snapshot.snapshot_ts
        check = TableCheck(snapshot, client, info, lambda _: hold.follow(lambda: ts))
        differences = check.run()
        # Raises if TiKV may have collected versions meanwhile.
        hold.ensure(ts)
    texts = {difference.physical_id: str(difference) for difference in reversed(differences)}
    return CheckedTable(info.id, ts, check.rows, tuple(sorted(texts.items())))


def _readable(snapshot: ReadSnapshot) -> list[str]:
    tables = [t for t in snapshot.listed() if t.db not in SYSTEM_DATABASES]
    sizes = {t.full_name: _rows(snapshot, t) for t in tables if snapshot.lacking(t) is None}
    return sorted(sizes, key=lambda name: (sizes[name], name))


def _rows(snapshot: ReadSnapshot, event: TableEvent) -> int:
    if event.table is None:
        return 0
    stats = snapshot.region_stats(event.table).values()
    return sum(region.rows + region.shared_rows for region in stats)
