"""Compaction and garbage collection of a store of Delta tables, by its writer.

    compact    OPTIMIZE merges small files, and the new versions are published
    collect    rewrites the tables that have versions below the safe point which no snapshot needs,
               and publishes them with the new oldest readable timestamp
    vacuum     VACUUM removes the files that no version of the last days names

Snapshots that were planned before read the earlier versions of the Delta tables, until `vacuum`. A
read latch (`latches.py`) holds back both: `collect` its timestamp, `vacuum` the time when it was
taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.types import TableID, TimeStamp, from_physical_ms, physical_ms
from pyspark_theflash.spark.delta import table
from pyspark_theflash.spark.delta.encoding import COMMON, PHYSICAL, PLAIN
from pyspark_theflash.spark.delta.engine import DeltaEngine
from pyspark_theflash.spark.delta.latches import ReadLatches
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, Op
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress

HOUR_MS: Final = 3_600_000
VACUUM_HOURS: Final = 168
"""Age from which files without a name are removed; a read must be planned and end within it."""
_NEWER: Final = "newer_ts"


@dataclass(frozen=True, slots=True)
class Collected:
    """Result of a collection: the oldest readable timestamp, and the tables that were rewritten."""

    oldest_ts: TimeStamp
    tables: Sequence[TableID]


class DeltaMaintenance:
    """Maintenance of a store; `engine` is its writer's."""

    def __init__(
        self, spark: SparkSession, engine: DeltaEngine, clock: Clock | None = None
    ) -> None:
        self._spark, self._engine = spark, engine
        self._clock = clock or SystemClock()
        self._latches = ReadLatches(spark, engine.path, self._clock)

    def compact(self) -> Sequence[TableID]:
        """Merge the small files of all tables; return the tables that changed.

        Raises:
            StaleTokenError: Another writer has taken over.
        """
        changed = [id for id in self._engine.state.versions if self._engine.optimize(id)]
        if changed:
            self._engine.commit(ManifestChange())
        return changed

    def collect(self, safe_point: TimeStamp) -> Collected:
        """Remove versions that no snapshot from `safe_point` on needs.

        The safe point is at most `resolved_ts`, and the lowest timestamp of a read latch.

        Raises:
            OptionError: Nothing was written yet.
            StaleTokenError: Another writer has taken over.
        """
        progress = Progress.of(self._engine.read([PROGRESS_KIND]))
        if progress is None:
            raise OptionError("safe_point", "there is nothing to collect in an empty store")
        held = [latch.snapshot_ts for latch in self._latches.living()]
        oldest_ts = TimeStamp(min(safe_point, progress.resolved_ts, *held))
        if oldest_ts <= progress.oldest_ts:
            return Collected(progress.oldest_ts, [])
        changed = []
        for table_id in self._engine.state.versions:
            frame = self._engine.frame(table_id)
            if not _garbage(frame, oldest_ts).isEmpty():
                self._engine.rewrite(table_id, _needed(frame, oldest_ts))
                changed.append(table_id)
        after = Progress(oldest_ts, progress.resolved_ts, progress.position)
        self._engine.commit(ManifestChange([after.to_record()]))
        return Collected(oldest_ts, changed)

    def vacuum(self, hours: int = VACUUM_HOURS) -> None:
        """Remove files that no version of the last `hours`, or since the oldest latch, names.

        Raises:
            OptionError: Files younger than `VACUUM_HOURS` would be removed, which a read or a task
                may still need.
            StaleTokenError: Another writer has taken over.
        """
        if hours < VACUUM_HOURS:
            raise OptionError("hours", f"must be at least {VACUUM_HOURS}")
        taken = [latch.taken_ms for latch in self._latches.living()]
        now_ms = self._clock.wall_ms()
        held = max((now_ms - ms for ms in taken), default=0) // HOUR_MS + 1
        self._engine.check_fence()
        for table_id, version in self._engine.state.versions.items():
            path = self._engine.table_path(table_id)
            # Otherwise files of the published version may have been without a name for days.
            if not table.commits_after(self._spark, path, version):
                self._spark.sql(
                    f"VACUUM {table.quoted(path)} RETAIN {max(hours, held)} HOURS"
                ).collect()


def safe_point_before(age_ms: int, clock: Clock) -> TimeStamp:
    """Return the timestamp of a moment before now by this machine's clock."""
    return from_physical_ms(max(clock.wall_ms() - age_ms, physical_ms(TimeStamp(0))))


def _with_newer(frame: DataFrame, safe_point: TimeStamp) -> DataFrame:
    """Add the newest commit_ts at or below the safe point of the same row; null for none."""
    below = frame.where(F.col(COMMIT_TS) <= safe_point).groupBy(PHYSICAL, HANDLE, COMMON)
    newest = below.agg(F.max(COMMIT_TS).alias(_NEWER))
    named = newest.select(
        F.col(PHYSICAL).alias("p"), F.col(HANDLE).alias("h"), F.col(COMMON).alias("c"), _NEWER
    )
    same = F.col(PHYSICAL) == F.col("p")
    same &= F.col(HANDLE).eqNullSafe(F.col("h")) & F.col(COMMON).eqNullSafe(F.col("c"))
    return frame.join(named, same, "left").drop("p", "h", "c")


def _is_needed(safe_point: TimeStamp) -> Column:
    is_above = F.col(COMMIT_TS) > safe_point
    is_newest = (F.col(COMMIT_TS) == F.col(_NEWER)) & (F.col(OP) == int(Op.PUT))
    return is_above | is_newest


def _garbage(frame: DataFrame, safe_point: TimeStamp) -> DataFrame:
    return _with_newer(frame, safe_point).where(~_is_needed(safe_point))


def _needed(frame: DataFrame, safe_point: TimeStamp) -> DataFrame:
    """Return the versions to keep; the oldest of each row supersedes nothing any more."""
    needed = _with_newer(frame, safe_point).where(_is_needed(safe_point))
    is_oldest = F.col(COMMIT_TS) <= safe_point
    return needed.withColumn(PLAIN, F.col(PLAIN) | is_oldest).drop(_NEWER)
