"""The speed of ingest from recorded messages of TiKV's change feed, by stage.

    python -m tests.benchmark.recorded_feed FILE [--cdc v6.5] [--transaction ROWS] [--one-phase]

If there is no FILE, it is recorded first: sessions of the tests' TiDB write rows of tpch's lineitem
in a table of several regions while `theflash capture` records. Of transactions of `--transaction`
rows each is an INSERT; without it they have 1 to 100 rows, and some update or delete earlier ones.
They commit in two phases, unless `--one-phase`. The schema is in FILE.schema.json.

The recorded messages are then replicated as in `tests.benchmark.change_feed`.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import RegionEpoch, TimeStamp
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.replication.cdc.recording import FRAME, OPENED, REQUEST, read_recording
from pyspark_theflash.replication.cdc.wire import FeedRequest, decode_request
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.benchmark.change_feed import CannedStreams, Changes, made, measure, show
from tests.support.learn_command import command, write_schema
from tests.support.peer import Peer

CLOCK = SystemClock()
SESSIONS, REGIONS = 8, 16
ORDERS = 1 << 20
INTERVAL_MS = 1000
"""TiKV's default."""
WAIT_MS = 5000
TABLE = """CREATE TABLE bench.lineitem (
    l_orderkey BIGINT, l_partkey BIGINT, l_suppkey BIGINT, l_linenumber INT,
    l_quantity DECIMAL(15,2), l_extendedprice DECIMAL(15,2), l_discount DECIMAL(15,2),
    l_tax DECIMAL(15,2), l_returnflag CHAR(1), l_linestatus CHAR(1), l_shipdate DATE,
    l_commitdate DATE, l_receiptdate DATE, l_shipinstruct CHAR(25), l_shipmode CHAR(10),
    l_comment VARCHAR(44), PRIMARY KEY (l_orderkey, l_linenumber) CLUSTERED)"""


def main(arguments: tuple[str, ...] = ()) -> None:
    """Record."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.recorded_feed")
    parser.add_argument("file", type=Path)
    parser.add_argument("--cdc", choices=("v6.5", "v8.5"), default="v8.5")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--transaction", type=int, help="rows of a transaction")
    parser.add_argument("--one-phase", action="store_true")
    chosen = parser.parse_args(arguments)
    if not chosen.file.exists():
        with (
            tempfile.TemporaryDirectory() as folder,
            Peer(Path(folder), cdc=chosen.cdc, cdc_interval_ms=INTERVAL_MS) as peer,
        ):
            record(peer, chosen)
    measure(made(1000, 100, 1))  # pyarrow imports modules when they are used first
    show(chosen.file.name, lambda: replayed(chosen.file))


class ReplayedStreams(CannedStreams):
    """The recorded messages about requests, which must be requested alike."""

    def __init__(
        self, messages: Sequence[bytes], requests: set[tuple[int, int]], *, is_multiplexed: bool
    ) -> None:
        super().__init__(messages)
        self.is_multiplexed, self.expected = is_multiplexed, requests

    def scanned(self) -> list[bytes]:
        """None: the ends of scans are in the recording."""
        self.expected -= {(each.region_id, each.request_id) for each in self.requests}
        if self.expected:
            raise ValueError(f"not requested, but recorded: {self.expected}")
        return []


def replayed(file: Path) -> Changes:
    """A recording's messages about its tables. A store without EventFeedV2 ends its streams."""
    items, tables = list(read_recording(file)), dict[tuple[int, int, int], FeedRequest]()
    answered = {item.stream for item in items if item.kind == FRAME}
    items = [item for item in items if item.stream in answered]
    for item in items:
        request = decode_request(item.data) if item.kind == REQUEST else None
        if request is not None and request.keys.start[:1] == b"t":
            tables[item.stream, request.region_id, request.request_id] = request
    streams = {stream for stream, _, _ in tables}
    methods = {item.data for item in items if item.kind == OPENED and item.stream in streams}
    messages = [item.data for item in items if item.kind == FRAME and item.stream in streams]
    peer = LocatedPeer(2, 1)
    regions = [
        LocatedRegion(each.region_id, each.keys, RegionEpoch(1, 1), (peer,), peer)
        for each in tables.values()
    ]
    requests = {(region_id, request_id) for _, region_id, request_id in tables}
    store = ReplayedStreams(messages, requests, is_multiplexed=methods == {b"EventFeedV2"})
    history = read_schema_file(schema_of(file))
    return Changes(history, regions, store, committed(messages, history.end_ts))


def committed(messages: Iterable[bytes], end_ts: TimeStamp) -> int:
    """The number of committed versions of rows up to a timestamp."""
    kinds = cdcpb_pb2.Event.LogType
    versions = {
        (row.key, row.commit_ts)
        for message in messages
        for event in cdcpb_pb2.ChangeDataEvent.FromString(message).events
        for row in event.entries.entries
        if row.type in (kinds.COMMIT, kinds.COMMITTED) and row.key[:1] == b"t"
    }
    return sum(commit_ts <= end_ts for _, commit_ts in versions)


def record(peer: Peer, chosen: argparse.Namespace) -> None:
    phases = "ON" if chosen.one_phase else "OFF"
    peer.sql(
        f"SET GLOBAL tidb_enable_1pc = {phases}",
        f"SET GLOBAL tidb_enable_async_commit = {phases}",
        "CREATE DATABASE bench",
        TABLE,
        f"SPLIT TABLE bench.lineitem BETWEEN (0, 0) AND ({ORDERS}, 0) REGIONS {REGIONS}",
    )
    with ExitStack() as undo:
        pd = undo.enter_context(PDClient((peer.pd_address,), None, clock=CLOCK))
        client = undo.enter_context(TiKVClient(pd, None, clock=CLOCK))
        history = TidbSchemaSource(TiKVMeta(client), CLOCK).read(pd.tso(), None)
    capture = command("capture", chosen.file, "--pd", peer.pd_address, "--tables", "bench.*")
    with subprocess.Popen(capture, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with ThreadPoolExecutor(SESSIONS) as threads:
                rows = chosen.rows // SESSIONS
                load = [
                    threads.submit(write, peer, n, rows, chosen.transaction)
                    for n in range(SESSIONS)
                ]
                for each in load:
                    each.result()
            end_ts = TimeStamp(peer.tso())
            CLOCK.sleep_ms(WAIT_MS)  # the last changes are on their way
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
    write_schema(schema_of(chosen.file), history, end_ts)


def schema_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.schema.json")


def write(peer: Peer, session: int, rows: int, size: int | None) -> None:
    """Write rows in a session."""
    values = random.Random(session)
    with peer.connect() as connection:
        written = 0
        while written < rows:
            count = min(size or values.choice((1, 1, 5, 100)), rows - written)
            # Orders of different sessions differ.
            order = values.randrange(ORDERS // SESSIONS) * SESSIONS + session
            if size is None and written and values.random() < 0.3:
                where = f"WHERE l_orderkey >= {order} AND MOD(l_orderkey, {SESSIONS}) = {session}"
                change = values.choice(
                    ("UPDATE bench.lineitem SET l_tax = l_tax + 1", "DELETE FROM bench.lineitem")
                )
                connection.query(f"{change} {where} LIMIT {count}")
            else:
                lines = ",".join(line(values, order, n) for n in range(count))
                connection.query(f"INSERT IGNORE INTO bench.lineitem VALUES {lines}")
            written += count


def line(values: random.Random, order: int, number: int) -> str:
    day = f"19{values.randrange(92, 99)}-{values.randrange(1, 13):02}-{values.randrange(1, 29):02}"
    instruction = values.choice(("DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"))
    mode = values.choice(("AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"))
    comment = "carefully final deposits sleep furiously abou"[: values.randrange(10, 44)]
    return (
        f"({order}, {values.randrange(200_000)}, {values.randrange(10_000)}, {number}, "
        f"{values.randrange(1, 51)}, {values.randrange(90_000, 10_000_000) / 100}, "
        f"0.0{values.randrange(10)}, 0.0{values.randrange(9)}, '{values.choice('ARN')}', "
        f"'{values.choice('OF')}', '{day}', '{day}', '{day}', '{instruction}', '{mode}', "
        f"'{comment}')"
    )


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
