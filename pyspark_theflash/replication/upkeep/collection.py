"""Records and reports of garbage collection; see `maintenance.py` for its steps."""

from dataclasses import dataclass, replace
from typing import Final

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.ledger import pruned_entries
from pyspark_theflash.replication.upkeep.orphans import WriterMemory
from pyspark_theflash.replication.upkeep.safe_point import SafePoint
from pyspark_theflash.storage.engine.api import CompactionReport, Engine, Publication
from pyspark_theflash.storage.store.feed import MAIN, SIDE, FeedRecords
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.schema.history import SchemaHistory

LEDGER_RECORD_ENTRIES: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """Result of a garbage collection or of a dry run.

    A dry run does not read data files: its `compaction` is what would be rewritten.
    """

    safe_point: SafePoint
    transactions_forgotten: int
    tables_purged: int
    compaction: CompactionReport

    def describe(self, *, dry_run: bool) -> str:
        """Describe the result for display."""
        compaction = self.compaction
        if dry_run:
            return (
                f"dry run: {self.safe_point}: would drop {self.tables_purged:,} tables, forget "
                f"{self.transactions_forgotten:,} transactions, and look for versions to drop in "
                f"{compaction.files_replaced:,} files of {compaction.rows_read:,} versions"
            )
        return (
            f"{self.safe_point}: dropped {compaction.rows_dropped:,} versions and "
            f"{self.tables_purged:,} tables, forgot {self.transactions_forgotten:,} transactions; "
            f"{describe(compaction)}"
        )


def describe(report: CompactionReport) -> str:
    """Describe the result of a compaction for display."""
    return (
        f"compacted {report.rows_read:,} versions of {report.files_replaced:,} files "
        f"into {report.rows_written:,} of {report.files_written:,}"
    )


def collectable(
    engine: Engine, view: View, history: SchemaHistory, safe_point: SafePoint
) -> CollectionReport:
    """Report what a collection would do, by the manifest only."""
    ts = safe_point.ts
    ledgers = [view.of_kind(feed.ledger_kind).values() for feed in (MAIN, SIDE)]
    forgotten = sum(pruned_entries(each, ts, LEDGER_RECORD_ENTRIES)[1] for each in ledgers)
    needed, stored = history.physical_ids_from(ts), engine.tables(view)
    tables = [engine.collectable(view, i, ts) for i in needed.intersection(stored)]
    rewritten = CompactionReport(
        rows_read=sum(table.rows for table in tables),
        files_replaced=sum(table.files for table in tables),
    )
    return CollectionReport(safe_point, forgotten, len({*stored} - needed), rewritten)


def raise_oldest_ts(
    engine: Engine,
    view: View,
    feed: FeedRecords,
    safe_point: TimeStamp,
    memory: WriterMemory | None,
) -> int:
    """Publish a feed's safe point; return the number of ledger entries removed."""
    before, kind = Progress.of(view, feed), feed.ledger_kind
    if before is None:
        return 0
    oldest_ts = max(before.oldest_ts, safe_point)
    # In a store fed by TiKV, snapshots above the recorded resolved_ts are readable, too.
    resolved_ts = max(before.resolved_ts, oldest_ts)
    progress = replace(before, oldest_ts=oldest_ts, resolved_ts=resolved_ts)
    ledger = view.of_kind(kind)
    bodies, forgotten = pruned_entries(ledger.values(), progress.oldest_ts, LEDGER_RECORD_ENTRIES)
    if forgotten or before != progress:
        records = [Record(kind, f"{n:012d}", body) for n, body in enumerate(bodies)]
        deletes = [(kind, key) for key in ledger]
        change = ManifestChange([progress.to_record(feed), *records], deletes)
        engine.publish(Publication((), change))
        if memory is not None and feed is MAIN:
            memory.collected(progress, len(records))
    return forgotten
