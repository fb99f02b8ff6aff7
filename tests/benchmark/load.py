"""Sessions of a TiDB that write orders: prewrite, then commit, at a steady rate of rows.

The rows are tpch's, cut into transactions of `ORDERS` new orders with their lines and the update of
one older order, all under keys that grow. Timestamps are PD's kind: milliseconds << 18, from the
capture's end on.
"""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.prewrite import INSERT, UPDATE, parse_prewrite
from pyspark_theflash.tidb.codec.number import decode_varint
from tests.support import binlog_writer
from tests.support.encoding import encode_varint
from tests.support.pump_client import PumpWriter
from tests.support.workloads import workload

CLOCK = SystemClock()
TABLES = {"orders": 270, "lineitem": 272}
SESSIONS = 8
ORDERS = 10
SAMPLE = 500
"""Orders of the capture whose content is used again and again."""
_KEY_COLUMN = b"\x08\x02\x08"


class Commit(NamedTuple):
    """A commit, and the times at which it was sent and answered, in seconds."""

    ts: int
    sent_s: float
    answered_s: float


@dataclass
class Load:
    """The commits, in order of their timestamps."""

    commits: list[Commit] = field(default_factory=list)
    inserted: tuple[int, int] = (0, 0)
    rows: int = 0
    late_s: float = 0.0


class _Oracle:
    """PD's timestamps."""

    def __init__(self, after: int) -> None:
        self._mutex, self._last = threading.Lock(), after
        self._begin = (after >> 18) + 1 - CLOCK.boottime_ms()

    def tso(self) -> int:
        with self._mutex:
            self._last = max(self._last + 1, self._begin + CLOCK.boottime_ms() << 18)
            return self._last


@dataclass(frozen=True)
class _Sample:
    """Rows without their order key: orders with their lines, and an update's two halves."""

    schema_version: int
    orders: Sequence[tuple[bytes, Sequence[bytes]]]
    update: Sequence[bytes]

    def transaction(self, number: int, ended: int) -> tuple[bytes, int, int, int]:
        """The `number`-th transaction's changes; how many orders and lines are new, and all rows.

        Those below `ended` have ended, so that their orders can be updated.
        """
        orders, lines = [], []
        first = number * ORDERS
        for key in range(first, first + ORDERS):
            order, its_lines = self.orders[key % len(self.orders)]
            handle = b"\x08" + encode_varint(key + 1)
            orders.append((INSERT, handle + order))
            lines += [(INSERT, handle + line) for line in its_lines]
        if number // 2 < ended:
            older = _KEY_COLUMN + encode_varint(first // 2 + 1)
            orders.append((UPDATE, b"".join(older + half for half in self.update)))
        changes = dict(zip(TABLES.values(), (orders, lines), strict=True))
        payload = binlog_writer.prewrite_value(self.schema_version, changes)
        return payload, ORDERS, len(lines), len(orders) + len(lines)


def run_load(address: str, rate: int, seconds: int) -> Load:
    """Write `rate` rows a second for so long."""
    sample, load, mutex = _sample(), Load(), threading.Lock()
    under_way: set[int] = set()
    oracle, numbers = _Oracle(workload("tpch").end_ts), itertools.count()
    rows = 1 + ORDERS + sum(len(lines) for _, lines in sample.orders) * ORDERS // SAMPLE
    begin = time.monotonic()

    def session() -> None:
        with PumpWriter(address) as pump:
            while True:
                with mutex:
                    number = next(numbers)
                    under_way.add(number)
                    ended = min(under_way)
                if number * rows >= rate * seconds:
                    return
                payload, orders, lines, all_rows = sample.transaction(number, ended)
                early_s = begin + number * rows / rate - time.monotonic()
                if early_s > 0:
                    CLOCK.sleep_ms(early_s * 1000)
                start_ts = oracle.tso()
                _send(pump, binlog_writer.prewrite(start_ts, payload))
                commit_ts, sent_s = oracle.tso(), time.monotonic()
                _send(pump, binlog_writer.commit(start_ts, commit_ts))
                with mutex:
                    load.commits.append(Commit(commit_ts, sent_s, time.monotonic()))
                    load.inserted = load.inserted[0] + orders, load.inserted[1] + lines
                    load.rows += all_rows
                    under_way.remove(number)
                    load.late_s = max(load.late_s, -early_s)

    threads = [threading.Thread(target=session) for _ in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.commits.sort()
    return load


def _send(pump: PumpWriter, payload: bytes) -> None:
    if answer := pump.write(payload):
        raise ValueError(answer)


def _sample() -> _Sample:
    """The first orders of the capture, and the first update of one."""
    orders: dict[int, bytes] = {}
    lines: dict[int, list[bytes]] = {}
    for entity in FileSource(workload("tpch").binlog).entities():
        if not entity.payload:
            continue
        prewrite = parse_prewrite(entity.payload)
        for mutations in prewrite.mutations:
            for row in mutations.inserted:
                key, end = decode_varint(row, 1)
                if mutations.table_id == TABLES["orders"]:
                    orders[key] = row[end:]
                else:
                    lines.setdefault(key, []).append(row[end:])
            if mutations.table_id == TABLES["orders"] and mutations.updated:
                row = mutations.updated[0]
                _, end = decode_varint(row, len(_KEY_COLUMN))
                _, *halves = row.split(row[:end])
                whole = [(order, lines[key]) for key, order in list(orders.items())[:SAMPLE]]
                return _Sample(prewrite.schema_version, whole, halves)
    raise ValueError("no update of an order")
