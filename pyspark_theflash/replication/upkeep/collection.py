"""Garbage collection: its safe point in the manifest, and what it comes to.

`maintenance.py` says in which order all is done.
"""

from dataclasses import dataclass, replace
from typing import Final, Protocol

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.ledger import pruned_entries
from pyspark_theflash.replication.upkeep.orphans import OpenTransactions
from pyspark_theflash.replication.upkeep.safe_point import SafePoint
from pyspark_theflash.storage.engine.api import CompactionReport, Engine, Publication
from pyspark_theflash.storage.store.feed import MAIN, SIDE, FeedRecords
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.schema.history import SchemaHistory

LEDGER_RECORD_ENTRIES: Final = 1 << 15


class WriterMemory(OpenTransactions, Protocol):
    """The records that a collection changes, as a running writer holds them."""

    def collected(self, progress: Progress, ledger_records: int) -> None:
        """`progress.oldest_ts` is durable, and the ledger forgets up to it."""


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """The result of a garbage collection, or of a dry run.

    A dry run does not look into files: its `compaction` is what would be rewritten.
    """

    safe_point: SafePoint
    transactions_forgotten: int
    tables_purged: int
    compaction: CompactionReport

    def told(self, *, dry_run: bool) -> str:
        """For people."""
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
            f"{told(compaction)}"
        )


def told(report: CompactionReport) -> str:
    """For people."""
    return (
        f"compacted {report.rows_read:,} versions of {report.files_replaced:,} files "
        f"into {report.rows_written:,} of {report.files_written:,}"
    )


def collectable(
    engine: Engine, view: View, history: SchemaHistory, safe_point: SafePoint
) -> CollectionReport:
    """Report what a collection would do, as far as the manifest tells."""
    ts = safe_point.ts
    ledgers = [view.of_kind(feed.ledger_kind).values() for feed in (MAIN, SIDE)]
    forgotten = sum(pruned_entries(each, ts, LEDGER_RECORD_ENTRIES)[1] for each in ledgers)
    needed, stored = history.physical_ids_from(ts), engine.tables(view)
    found = [engine.collectable(view, i, ts) for i in needed.intersection(stored)]
    rewritten = CompactionReport(
        rows_read=sum(table.rows for table in found),
        files_replaced=sum(table.files for table in found),
    )
    return CollectionReport(safe_point, forgotten, len({*stored} - needed), rewritten)


def raise_oldest_ts(
    engine: Engine,
    view: View,
    feed: FeedRecords,
    safe_point: TimeStamp,
    memory: WriterMemory | None,
) -> int:
    """Publish a feed's safe point; returns how many of its transactions are forgotten."""
    before, kind = Progress.of(view, feed), feed.ledger_kind
    if before is None:
        return 0
    oldest_ts = max(before.oldest_ts, safe_point)
    # What TiKV feeds is readable further than its record says.
    resolved_ts = max(before.resolved_ts, oldest_ts)
    progress = replace(before, oldest_ts=oldest_ts, resolved_ts=resolved_ts)
    ledger = view.of_kind(kind)
    kept, forgotten = pruned_entries(ledger.values(), progress.oldest_ts, LEDGER_RECORD_ENTRIES)
    if forgotten or before != progress:
        records = [Record(kind, f"{n:012d}", body) for n, body in enumerate(kept)]
        deletes = [(kind, key) for key in ledger]
        change = ManifestChange([progress.to_record(feed), *records], deletes)
        engine.publish(Publication((), change))
        if memory is not None and feed is MAIN:
            memory.collected(progress, len(records))
    return forgotten
