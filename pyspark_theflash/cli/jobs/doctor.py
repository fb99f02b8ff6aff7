"""The checks of `theflash doctor`, which read PD, TiKV and their status ports."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_from_bytes

import pyarrow as pa

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import TheFlashError, UnsupportedError
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp, physical_ms
from pyspark_theflash.cli.jobs.arguments import tls_files
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.barrier import TTL_S
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.cluster.tikv.wire.directory import Store
from pyspark_theflash.net.channel import connects, open_channel
from pyspark_theflash.replication.load.plan import physical_tables
from pyspark_theflash.replication.load.scan import PieceReader, record_keys
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.storage.store.scope import TableScope, tables_to_load
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.tidb.schema.status_api import StatusApi
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource

OK, NOTE, PROBLEM = "ok", "note", "problem"
LOAD_ROWS_PER_S: Final = 200_000
"""The rows that a processor core loads in a second; narrow rows take less time."""
_CALL_MS: Final = 5_000
_TABLES_MS: Final = 60_000
_FIRST_FEED, _FIRST_MULTIPLEXED = (4, 0), (7, 5)
_RANGES_SAMPLED: Final = 200
_VARIABLES: Final = "mysql.tidb"
_GC_LIFE: Final = "tikv_gc_life_time"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report."""

    level: str
    subject: str
    text: str


class Doctor:
    """The checks of one cluster."""

    def __init__(self, arguments: argparse.Namespace, undo: ExitStack) -> None:
        self._clock, self._tls = SystemClock(), tls_files(arguments)
        self._pd_addresses = tuple(arguments.pd.split(","))
        self._scope = TableScope(tuple(arguments.tables))
        self._pd = undo.enter_context(PDClient(self._pd_addresses, self._tls, clock=self._clock))
        self._client = undo.enter_context(TiKVClient(self._pd, self._tls, clock=self._clock))

    def findings(self) -> Iterator[Finding]:
        """Yield the findings; the later checks need PD."""
        try:
            now = self._pd.tso()
            yield Finding(OK, "PD", f"cluster {self._pd.cluster_id()}, {self._pd_version()}")
        except TheFlashError as error:
            yield Finding(PROBLEM, "PD", str(error))
            return
        for check in (self._stores, lambda: self._safe_point(now), self._barriers, self._tables):
            yield from _guarded(check())

    # Services.

    def _stores(self) -> Iterator[Finding]:
        stores = self._client.directory.stores(self._deadline())
        engines = [dict(store.labels).get("engine") for store in stores]
        rows = [store for store, engine in zip(stores, engines, strict=True) if engine is None]
        ports = self._status_ports()
        if not rows:
            yield Finding(PROBLEM, "TiKV", "PD has no store of rows")
        for store in rows:
            yield from self._store(store, ports.get(store.address))

    def _store(self, store: Store, status_port: str | None) -> Iterator[Finding]:
        subject = f"TiKV {store.id}"
        with closing(open_channel(store.address, self._tls, max_message_bytes=1 << 20)) as channel:
            if not connects(channel, _CALL_MS):
                yield Finding(PROBLEM, subject, f"{store.address} does not respond")
                return
        text = f"{store.address}, version {store.version or 'unknown'}"
        version = version_of(store.version)
        if version is not None and version < _FIRST_FEED:
            yield Finding(PROBLEM, subject, f"{text}: it has no change feed, which came with 4.0")
            return
        feed = "unknown change feed"
        if version is not None:
            feed = "EventFeedV2" if version >= _FIRST_MULTIPLEXED else "EventFeed"
        interval = self._interval(status_port)
        yield Finding(OK, subject, f"{text}, {feed}, resolved timestamps every {interval}")

    def _interval(self, status_port: str | None) -> str:
        try:
            config = self._get(status_port, "/config")
            return str(config["cdc"]["min-ts-interval"])
        except _NO_ANSWER:
            return "(unknown; 1s by default)"

    # Garbage collection.

    def _safe_point(self, now: TimeStamp) -> Iterator[Finding]:
        safe_point = self._pd.gc_safe_point()
        age_min = (physical_ms(now) - physical_ms(safe_point)) / 60_000
        text = f"at {shown(safe_point)}, {age_min:,.0f} minutes ago" if safe_point else "not set"
        yield Finding(OK, "GC safe point", text)

    def _barriers(self) -> Iterator[Finding]:
        hours = TTL_S // 3600
        yield Finding(
            NOTE,
            "GC barrier",
            "theflash follow holds back garbage collection to the store's newest timestamp; TiKV "
            f"keeps more versions only while a load runs, or for {hours} h after it was stopped",
        )
        try:
            points = self._get(self._pd_http(), "/pd/api/v1/gc/safepoint")
            services = [
                (str(point["service_id"]), TimeStamp(int(point["safe_point"])))
                for point in points["service_gc_safe_points"] or ()
            ]
        except _NO_ANSWER:
            yield Finding(NOTE, "GC barrier", "the barriers in PD are unknown")
            return
        for service, ts in services:
            if service != "gc_worker":
                yield Finding(NOTE, "GC barrier", f"{service!r} holds {shown(ts)}")

    # Tables.

    def _tables(self) -> Iterator[Finding]:
        history = TidbSchemaSource(TiKVMeta(self._client), self._clock).read(self._pd.tso())
        yield self._life_time(history)
        tables = tables_to_load(history, self._scope)
        if not tables:
            yield Finding(PROBLEM, "tables", "no table matches")
            return
        for table in tables:
            yield from table_problems(table)
        yield self._size(tables)

    def _life_time(self, history: SchemaHistory) -> Finding:
        """Return the GC life time in `mysql.tidb`, where TiDB stores its variables."""
        try:
            # A history finds no system tables by name.
            tables = (event.table for event in history.events if event.full_name == _VARIABLES)
            if (table := next(tables, None)) is None:
                raise LookupError(_VARIABLES)
            physical_id = PhysicalTableID(table.id)
            names = [column_name(column.id) for column in table.public_columns[:2]]
            keys = record_keys(physical_id)
            reader = PieceReader(self._client, {physical_id: table}, history.start_ts, 1 << 20)
            variables: dict[object, object] = {}
            for versions in reader.read(keys.start, keys.end).versions():
                columns = [versions.batch.column(name) for name in names]
                variables.update(zip(*map(pa.Array.to_pylist, columns), strict=True))
            return Finding(OK, "GC life time", str(variables[_GC_LIFE]))
        except (TheFlashError, LookupError, ValueError, TypeError):
            return Finding(NOTE, "GC life time", "unknown; 10m by default")

    def _size(self, tables: Sequence[TableInfo]) -> Finding:
        """Return the size of tables by PD's statistics of regions, which are approximate."""
        ids = sorted(physical_tables(tables))
        regions = rows = mebibytes = 0
        try:
            for physical_id in ids[:_RANGES_SAMPLED]:
                keys = record_keys(physical_id)
                low, high = (
                    quote_from_bytes(encode_bytes(key), safe="") for key in (keys.start, keys.end)
                )
                path = f"/pd/api/v1/stats/region?start_key={low}&end_key={high}"
                stats = self._get(self._pd_http(), path)
                regions += int(stats["count"])
                rows += int(stats["storage_keys"])
                mebibytes += int(stats["storage_size"])
        except _NO_ANSWER:
            return Finding(NOTE, "tables", f"{len(tables)} can be followed; their size is unknown")
        cores = len(os.sched_getaffinity(0))
        minutes = rows / LOAD_ROWS_PER_S / cores / 60
        part = f"the first {_RANGES_SAMPLED} of " if len(ids) > _RANGES_SAMPLED else ""
        return Finding(
            OK,
            "tables",
            f"{part}{len(ids)} physical tables of {len(tables)} tables: about {rows:,} rows, "
            f"{mebibytes:,} MiB in {regions} regions of TiKV; the load takes at least "
            f"{minutes:,.1f} minutes on {cores} cores, and the store less space than that",
        )

    # Status ports.

    def _pd_version(self) -> str:
        try:
            return f"version {self._get(self._pd_http(), '/pd/api/v1/version')['version']}"
        except _NO_ANSWER:
            return "of unknown version"

    def _status_ports(self) -> dict[str, str]:
        """Return the status addresses of stores, by their addresses."""
        try:
            answer = self._get(self._pd_http(), "/pd/api/v1/stores")
            stores = [each["store"] for each in answer["stores"]]
            return {s["address"]: s["status_address"] for s in stores if s.get("status_address")}
        except _NO_ANSWER:
            return {}

    def _pd_http(self) -> str:
        address: str = self._pd_addresses[0]
        return address.rpartition("://")[2]

    def _get(self, address: str | None, path: str) -> Any:  # noqa: ANN401 (JSON)
        """Return the JSON at a path of a status port."""
        if address is None:
            raise LookupError("no status port")
        scheme = "http" if self._tls is None else "https"
        with closing(StatusApi(f"{scheme}://{address}", self._clock, self._tls, _CALL_MS)) as api:
            return api.get(path)

    def _deadline(self) -> Deadline:
        return Deadline(self._clock, _TABLES_MS)


_NO_ANSWER: Final = (TheFlashError, LookupError, ValueError, TypeError, AttributeError)
"""Errors of a status port that does not answer, or not as expected."""


def _guarded(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; an error ends them with a problem."""
    try:
        yield from findings
    except TheFlashError as error:
        yield Finding(PROBLEM, "cluster", str(error))


def table_problems(table: TableInfo) -> Iterator[Finding]:
    """Yield a finding for each column of a table that cannot be read.

    The table cannot be followed if rows contain the column; virtual columns are computed by reads.
    """
    for column in table.public_columns:
        level = NOTE if column.is_virtual else PROBLEM
        yield from (Finding(level, "table", reason) for reason in _unreadable(table, column))


def _unreadable(table: TableInfo, column: ColumnInfo) -> list[str]:
    try:
        scan_column(table, column)
    except UnsupportedError as error:
        return [f"{table.full_name}.{column.name}: {error.what} is not supported"]
    return []


def version_of(text: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version such as `v7.5.1-alpha`; None if it is none."""
    numbers = text.removeprefix("v").split(".")[:2]
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        return None
    return int(numbers[0]), int(numbers[1])
