"""Files that have rows to apply, and the ranges of commit_ts in which they are applied.

All rows below the checkpoint are in the storage, in any order and any file, some more than once. A
range (low, high] of them is applied at a time, so that its rows fit in memory:

    file 1   ████████             low ─┬─ high        rows of files 1 and 2 up to `high`,
    file 2       ████████              │              in one publication
    file 3                  ██████████████████

A file is read once for its range, and again for each range that it overlaps unless its rows are
still in memory. It is finished when all its rows are applied, and is not read again unless its
size changes: TiCDC may write a file in place. Number and size of the last finished file of each
series are stored.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.ticdc.layout import SinkFile
from pyspark_theflash.replication.ticdc.rows import SinkRows
from pyspark_theflash.storage.store.manifest import Record
from pyspark_theflash.tidb.codec.document import load, shaped, uint64

SERIES_KIND: Final = "sink-series"
RANGE_BYTES: Final = 64 << 20
"""Size of the parts of files that are applied together."""
Parse = Callable[[SinkFile, int], Iterable[SinkRows]]
"""(file, size) -> its rows. May read the file at each call."""


@dataclass(slots=True)
class _Unfinished:
    """A file with rows to apply: between `low` and `high`, both included."""

    file: SinkFile
    size: int
    low: int
    high: int
    rows: Sequence[SinkRows] | None

    def size_in(self, low: int, high: int) -> float:
        """Return the estimated size of the rows in (low, high]."""
        overlap = min(high, self.high) - max(low, self.low - 1)
        return self.size * max(overlap, 0) / (self.high - self.low + 1)


class Backlog:
    """Files of a sink that are not finished. `records` are those of `SERIES_KIND`."""

    def __init__(self, records: Mapping[str, bytes], parse: Parse) -> None:
        self._parse = parse
        self._stored = {series: _parse_record(body) for series, body in records.items()}
        self._finished: dict[str, dict[int, int]] = defaultdict(dict)
        self._unfinished: dict[str, _Unfinished] = {}
        self._present: set[str] = set()

    def update(self, files: Sequence[tuple[SinkFile, int]], applied_ts: TimeStamp) -> None:
        """Adopt the files with their sizes that the storage has now, and read the new ones.

        Raises:
            TheFlashError: A file cannot be read; see `Parse`.
        """
        paths, self._present = {file.path for file, _ in files}, {file.series for file, _ in files}
        self._unfinished = {p: each for p, each in self._unfinished.items() if p in paths}
        for file, size in sorted(files, key=lambda each: (each[0].series, each[0].number)):
            earlier = self._unfinished.get(file.path)
            if self._is_finished(file, size) or (earlier is not None and earlier.size == size):
                continue
            self._unfinished.pop(file.path, None)
            unfinished = self._read(file, size)
            if unfinished is None or unfinished.high <= applied_ts:
                self._finish(file, size)
            else:
                self._unfinished[file.path] = unfinished

    def range_end(self, low: TimeStamp, limit: TimeStamp) -> TimeStamp:
        """Return the end, up to `limit`, of a range above `low` whose rows fit in memory.

        Rows that are committed at the same timestamp are not divided.
        """
        files = list(self._unfinished.values())
        first, last = low + 1, int(limit)
        while first < last:
            middle = (first + last + 1) // 2
            if sum(each.size_in(low, middle) for each in files) <= RANGE_BYTES:
                first = middle
            else:
                last = middle - 1
        return TimeStamp(first)

    def rows(self, low: TimeStamp, high: TimeStamp) -> Iterator[SinkRows]:
        """Yield the rows committed in (low, high]."""
        for each in list(self._unfinished.values()):
            if each.low > high or each.high <= low:
                continue
            parts = each.rows if each.rows is not None else self._parse(each.file, each.size)
            for rows in parts:
                is_chosen = (rows.commit_ts > low) & (rows.commit_ts <= high)
                if is_chosen.any():
                    yield rows.where(is_chosen)

    def changes(self, high: TimeStamp) -> tuple[list[Record], list[tuple[str, str]]]:
        """Return records to write and to delete in the publication of the rows up to `high`.

        `stored` adopts them.
        """
        newest = self._newest_finished(high)
        puts = [
            Record(SERIES_KIND, series, json.dumps(each).encode())
            for series, each in newest.items()
            if self._stored.get(series) != each
        ]
        gone = [(SERIES_KIND, series) for series in self._stored if series not in newest]
        return puts, gone

    def stored(self, high: TimeStamp) -> None:
        """Adopt the records of `changes`, which are durable now: the rows up to `high`."""
        self._stored = self._newest_finished(high)
        for path, each in list(self._unfinished.items()):
            if each.high <= high:
                del self._unfinished[path]
                self._finish(each.file, each.size)
        for series in list(self._finished):
            number, _ = self._stored.get(series, (0, 0))
            later = {n: size for n, size in self._finished.pop(series).items() if n > number}
            if later and series in self._present:
                self._finished[series] = later

    # --

    def _read(self, file: SinkFile, size: int) -> _Unfinished | None:
        """Read a file; return None if it has no rows."""
        budget = RANGE_BYTES - sum(e.size for e in self._unfinished.values() if e.rows is not None)
        rows: list[SinkRows] | None = [] if size <= budget else None
        low, high = 1 << 64, -1
        for part in self._parse(file, size):
            if len(part.commit_ts):
                low = min(low, int(part.commit_ts.min()))
                high = max(high, int(part.commit_ts.max()))
                if rows is not None:
                    rows.append(part)
        return None if high < 0 else _Unfinished(file, size, low, high, rows)

    def _is_finished(self, file: SinkFile, size: int) -> bool:
        number, stored_size = self._stored.get(file.series, (0, 0))
        if file.number < number:
            return True
        if file.number == number:
            return size == stored_size
        return self._finished.get(file.series, {}).get(file.number) == size

    def _finish(self, file: SinkFile, size: int) -> None:
        self._finished[file.series][file.number] = size

    def _newest_finished(self, high: TimeStamp) -> dict[str, tuple[int, int]]:
        """Return number and size of each series' last file of which all before are finished too."""
        finished = defaultdict(dict, {s: dict(sizes) for s, sizes in self._finished.items()})
        for each in self._unfinished.values():
            if each.high <= high:
                finished[each.file.series][each.file.number] = each.size
        newest = {s: each for s, each in self._stored.items() if s in self._present}
        for series, sizes in finished.items():
            number, _ = newest.get(series, (0, 0))
            # A missing file may still appear.
            while number + 1 in sizes:
                number += 1
            if number in sizes:
                newest[series] = number, sizes[number]
        return newest


def _parse_record(body: bytes) -> tuple[int, int]:
    with shaped(f"{SERIES_KIND} record"):
        number, size = load(body)
        return uint64(number), uint64(size)
