"""Scripts of compaction: how the files of a table are rewritten, invisibly to reads.

    limits     set the thresholds of compaction, see `CompactionLimits`
    put        publish versions of rows (`1-10,15`) with one value, as one file
    delete     publish deletes of rows
    compact    rewrite what is due; with `everything`, all that is recent or garbage
    begin      plan the next piece of a compaction
    run        run the planned piece; anything may have been published in between
    flush      distribute recent files among the regions
    split      split a region at a handle
    merge      merge two regions
    collect    run a garbage collection; without `safe_point` up to the newest timestamp
    pin        pin a timestamp, for a million ms unless `ttl` says otherwise
    unpin      release a pin
    sleep      let time pass
    layout     list the regions with their files, then the files across regions
    disk       count the data files on disk
    read       show the rows at a timestamp, as runs of handles with equal values
    open       open a snapshot that is kept under a name
    close      close it

At the end of a script the store is checked as by `theflash fsck`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import groupby
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.upkeep.work_queue import run_all
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import CompactionReport, Piece
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile
from pyspark_theflash.storage.mvcc.project import ScanColumn, scan_column
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, store_progress
from pyspark_theflash.testing.script import check_script
from pyspark_theflash.testing.stores import (
    OLDEST_TS,
    Version,
    column,
    id_column,
    publication,
    table_info,
)
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.golden_scripts import script_paths
from tests.support.manual_clock import ManualClock

FS = LocalFileSystem()
INFO = table_info(1, "db.t", [id_column(), column("v", MySQLType.VARCHAR)])
TABLE = PhysicalTableID(1)
COLUMNS: Sequence[ScanColumn] = [scan_column(INFO, info) for info in INFO.public_columns]


class Compactions:
    """A table with an integer key and a text, its writer's engine, and pins of its timestamps."""

    def __init__(self, folder: Path) -> None:
        self._path, self._clock = folder / "store", ManualClock()
        registry.create(self._path, registry.MAGIC, FS)
        self._undo = ExitStack()
        self._manifest = self._undo.enter_context(closing(open_manifest(self._path, FS)))
        self._engine = MagicEngine(self._path, FS, self._clock)
        self._pins: dict[str, ReadLease] = {}
        self._open: dict[str, ReadSnapshot] = {}
        self._piece: Piece | None = None

    def close(self) -> None:
        with self._undo, closing(self._engine):
            assert list(self._engine.check(self._engine.read([]))) == []

    def do_limits(self, **limits: str) -> None:
        self._engine.close()
        chosen = CompactionLimits(**{name: int(value) for name, value in limits.items()})
        self._engine = MagicEngine(self._path, FS, self._clock, limits=chosen)

    def do_put(self, rows: str, ts: str, value: str) -> None:
        self._publish(int(ts), [(row, int(ts), (row, value)) for row in _handles(rows)])

    def do_delete(self, rows: str, ts: str) -> None:
        self._publish(int(ts), [(row, int(ts), None) for row in _handles(rows)])

    def do_compact(self, *everything: str, safe_point: str | None = None) -> list[str]:
        ts = None if safe_point is None else TimeStamp(int(safe_point))
        whole = everything == ("everything",)
        return _summary(self._engine.compact(TABLE, COLUMNS, safe_point=ts, everything=whole))

    def do_begin(self) -> list[str]:
        self._piece = self._engine.begin(TABLE, COLUMNS)
        return ["nothing to do" if self._piece is None else "planned"]

    def do_run(self) -> list[str]:
        assert self._piece is not None
        report = self._piece()
        return ["discarded: the regions have changed"] if report.discarded else _summary(report)

    def do_flush(self) -> list[str]:
        return _summary(self._engine.flush(TABLE, COLUMNS))

    def do_split(self, region: str, at: str) -> list[str]:
        return _summary(self._engine.split(TABLE, RegionID(int(region)), int(at), COLUMNS))

    def do_merge(self, left: str, right: str) -> list[str]:
        ids = RegionID(int(left)), RegionID(int(right))
        try:
            return _summary(self._engine.merge(TABLE, *ids, COLUMNS))
        except OptionError as error:
            # The size of rows in memory depends on Arrow.
            return [re.sub(r"\d+ bytes", "some bytes", f"{type(error).__name__}: {error}")]

    def do_collect(self, safe_point: str | None = None) -> Iterator[str]:
        upkeep = Maintenance(self._engine, self._manifest, self._clock)
        newest = store_progress(self._engine.read([PROGRESS_KIND]))
        assert newest is not None
        ts = newest.resolved_ts if safe_point is None else TimeStamp(int(safe_point))
        report = run_all(upkeep.collecting(ts))
        assert report is not None
        held = "".join(f", held back by {each}" for each in report.safe_point.held_by)
        yield re.sub(r"process \d+", "process P", f"safe point {report.safe_point.ts}{held}")
        yield from _summary(report.compaction)

    def do_pin(self, by: str, ts: str, ttl: str = "1000000") -> None:
        leases = LeaseTable(self._manifest, self._clock, lambda: by)
        self._pins[by] = leases.take(TimeStamp(int(ts)), int(ttl), LatchKind.PIN)

    def do_unpin(self, by: str) -> None:
        LeaseTable(self._manifest, self._clock).release(self._pins.pop(by))

    def do_sleep(self, ms: str) -> None:
        self._clock.sleep_ms(int(ms))

    def do_layout(self) -> Iterator[str]:
        view = self._engine.read([])
        files = [DataFile.from_json(body) for body in view.of_kind(FILE_KIND).values()]
        files.sort(key=lambda info: info.number)
        regions = self._engine.regions(view, TABLE)
        for region in regions:
            start = "the first" if region.start is None else region.start
            end = "the last" if region.end is None else f"before {region.end}"
            yield f"region {region.region_id}, from {start} to {end}"
            yield from (_file(info) for info in files if info.region_id == region.region_id)
        if deltas := [info for info in files if not info.region_id]:
            yield "across regions"
            yield from map(_file, deltas)

    def do_disk(self) -> Iterator[str]:
        count = len(list((self._path / "data").rglob("*.parquet")))
        yield f"data files: {count}"

    def do_open(self, snapshot: str, ts: str) -> None:
        self._open[snapshot] = self._undo.enter_context(self._snapshot(ts))

    def do_close(self, snapshot: str) -> None:
        self._open.pop(snapshot).__exit__(None, None, None)

    def do_read(self, ts: str | None = None, snapshot: str | None = None) -> list[str]:
        if snapshot is not None:
            return _rows(self._open[snapshot])
        with self._snapshot(ts) as opened:
            return _rows(opened)

    def _publish(self, ts: int, versions: Sequence[Version]) -> None:
        progress = store_progress(self._engine.read([PROGRESS_KIND]))
        oldest_ts = OLDEST_TS if progress is None else progress.oldest_ts
        self._engine.publish(publication([INFO], ts, {INFO: versions}, oldest_ts=oldest_ts))

    def _snapshot(self, ts: str | None) -> ReadSnapshot:
        wanted = None if ts is None else TimeStamp(int(ts))
        return ReadSnapshot(self._path, wanted, FS, self._clock)


def _handles(rows: str) -> list[int]:
    """The handles of `1-3,7`: 1, 2, 3 and 7."""
    ranges = (part.partition("-") for part in rows.split(","))
    return [n for low, _, high in ranges for n in range(int(low), int(high or low) + 1)]


def _summary(report: CompactionReport) -> list[str]:
    if not report.rows_read:
        return ["nothing to rewrite"]
    return [
        f"{report.rows_read} versions of {report.files_replaced} files"
        f" -> {report.rows_written} of {report.files_written}"
    ]


def _file(info: DataFile) -> str:
    kind = info.kind.value
    return f"  {kind}: rows {info.min_handle}-{info.max_handle}, {info.rows} versions"


def _rows(snapshot: ReadSnapshot) -> list[str]:
    rows = sorted((r["id"], r["v"]) for b in snapshot.scan("db.t") for r in b.to_pylist())
    # Neighbours of one value have one difference between their handle and their place.
    runs = groupby(enumerate(rows), key=lambda each: (each[1][0] - each[0], each[1][1]))
    groups = [(value, [row[0] for _, row in run]) for (_, value), run in runs]
    texts = [f"{ids[0]}-{ids[-1]} {v}" if len(ids) > 1 else f"{ids[0]} {v}" for v, ids in groups]
    return [", ".join(texts)] if texts else ["no rows"]


@pytest.mark.parametrize("path", script_paths("compaction"), ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    check_script(path, Compactions(tmp_path))
