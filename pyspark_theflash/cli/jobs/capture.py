"""The recording of TiKV's change feed that `theflash capture` makes and shows."""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Final

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.arguments import tls_files
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.cli.listeners import stop_event
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.cluster.tikv.upkeep import SharedHold
from pyspark_theflash.replication.cdc.feed import TiKVChangeFeed
from pyspark_theflash.replication.cdc.meta_schema import META_SPAN
from pyspark_theflash.replication.cdc.recording import (
    FRAME,
    REQUEST,
    RecordedItem,
    RecordedStreams,
    Recording,
)
from pyspark_theflash.replication.cdc.streams import GrpcStreams
from pyspark_theflash.replication.cdc.wire import (
    COMMIT,
    COMMITTED,
    DELETE,
    INITIALIZED,
    PREWRITE,
    PUT,
    ROLLBACK,
    FeedError,
    RegionsProgress,
    decode_changes,
    decode_frames,
    decode_request,
)
from pyspark_theflash.replication.load.plan import physical_tables
from pyspark_theflash.replication.load.scan import record_keys
from pyspark_theflash.storage.store.scope import TableScope, tables_to_load
from pyspark_theflash.tidb.codec.key import RawKey, table_of
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource

_POLL_MS: Final = 200
_FLUSH_MS: Final = 1000
_OPERATIONS: Final[dict[int, str]] = {PUT: "put", DELETE: "delete"}
_EVENTS: Final[dict[int, str]] = {
    PREWRITE: "prewrite",
    COMMIT: "commit",
    ROLLBACK: "rollback",
    COMMITTED: "committed",
    INITIALIZED: "initialized",
}


class Capture:
    """One recording."""

    def __init__(self, arguments: argparse.Namespace, undo: ExitStack) -> None:
        """Connect, and subscribe the tables."""
        self._clock, self._path = SystemClock(), arguments.file
        self._for_ms = arguments.seconds
        tls = tls_files(arguments)
        pd_addresses = tuple(arguments.pd.split(","))
        pd = undo.enter_context(PDClient(pd_addresses, tls, clock=self._clock))
        client = undo.enter_context(TiKVClient(pd, tls, clock=self._clock))
        self._hold = SharedHold(
            client.directory, f"theflash-capture-{os.getpid()}", clock=self._clock
        )
        undo.callback(self._hold.close)
        now = pd.tso()
        from_ts = now if arguments.from_ts is None else TimeStamp(arguments.from_ts)
        self._hold.ensure(from_ts)
        history = TidbSchemaSource(TiKVMeta(client), self._clock).read(now, None)
        tables = tables_to_load(history, TableScope(tuple(arguments.tables)))
        if not tables:
            raise OptionError("tables", "matches no table of the cluster")
        try:
            self._recording = undo.enter_context(closing(Recording(self._path, self._clock)))
        except OSError as error:
            raise OptionError("file", f"cannot be created: {error.strerror}") from error
        streams = RecordedStreams(GrpcStreams(client.directory, tls), self._recording)
        self._feed = undo.enter_context(
            closing(TiKVChangeFeed(client.regions, streams, pd.cluster_id(), clock=self._clock))
        )
        for span in (META_SPAN, *map(record_keys, physical_tables(tables))):
            self._feed.subscribe(span, from_ts)
        print(f"recording {len(tables)} tables from {shown(from_ts)} into {self._path}", flush=True)

    def run(self) -> None:
        """Record until the end."""
        stopped, flushed = stop_event(), Deadline(self._clock, _FLUSH_MS)
        ends = None if self._for_ms is None else Deadline(self._clock, self._for_ms)
        with ticking("recording", self._clock) as ticker:
            while not stopped.is_set() and (ends is None or ends.left_ms()):
                self._feed.poll(_POLL_MS)
                self._feed.take(self._feed.resolved_ts)
                self._hold.follow(lambda: self._feed.resolved_ts)
                if not flushed.left_ms():
                    self._recording.flush()
                    flushed = Deadline(self._clock, _FLUSH_MS)
                    ticker.note(f"recording: {self._summary()}")
            ticker.print(f"recorded {self._summary()}")

    def _summary(self) -> str:
        recording = self._recording
        return (
            f"{recording.frames:,} messages of {recording.frame_bytes:,} bytes, "
            f"up to {shown(self._feed.resolved_ts)}"
        )


def lines_of(item: RecordedItem) -> Iterator[str]:
    """Yield descriptions of the contents of an item, without values of rows."""
    if item.kind == FRAME:
        yield from _events(item.data)
    elif item.kind == REQUEST:
        request = decode_request(item.data)
        where = f"region {request.region_id} request {request.request_id}"
        if request.registers:
            keys = f"{request.keys.start.hex()} to {request.keys.end.hex()}"
            yield f"{where} register from {request.checkpoint_ts} keys {keys}"
        else:
            yield f"{where} deregister"
    else:
        yield f"store {item.store_id} {item.kind}: {item.data.decode(errors='replace')}"


def _events(data: bytes) -> Iterator[str]:
    for event in decode_frames([data]):
        if isinstance(event, RegionsProgress):
            regions = " ".join(map(str, event.region_ids))
            yield f"request {event.request_id} resolved_ts {event.resolved_ts} regions {regions}"
            continue
        region_id, request_id, content = event
        where = f"region {region_id} request {request_id}"
        if isinstance(content, FeedError):
            yield f"{where} error: {content.reason}"
            continue
        for row in decode_changes(content):
            kind = _EVENTS.get(row.type, f"event {row.type}")
            operation = _OPERATIONS.get(row.op_type, "")
            yield (
                f"{where} {kind} {operation} {table_of(RawKey(row.key))} key {row.key.hex()} "
                f"start_ts {row.start_ts} commit_ts {row.commit_ts} value {len(row.value)} bytes"
            )
