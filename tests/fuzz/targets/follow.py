"""Input of a store that follows a cluster: etcd's keys, its own records, recordings, SQL."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import CodecError, CorruptionError
from pyspark_theflash.base.types import RegionEpoch, RegionID, TimeStamp
from pyspark_theflash.cli.jobs.capture import lines_of
from pyspark_theflash.cluster import wire as pd_wire
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.watch import WatchedKeys
from pyspark_theflash.replication.base.session import Row
from pyspark_theflash.replication.base.snapshot import SnapshotBase
from pyspark_theflash.replication.cdc.imports import IMPORT_PREFIX
from pyspark_theflash.replication.cdc.recording import (
    FRAME,
    OPENED,
    REQUEST,
    Recording,
    read_recording,
)
from pyspark_theflash.replication.cdc.wire import register_request
from pyspark_theflash.storage.store.base_load import BASE_LOAD_KIND, places_of, plan_source
from pyspark_theflash.storage.store.compared import (
    COMPARED_KIND,
    IMPORTS_KIND,
    compared_of,
    imports_revision,
)
from pyspark_theflash.storage.store.entered import ENTERED_KIND, entered_of
from pyspark_theflash.storage.store.load import LOAD_KIND, EntryPlan, adds_of
from pyspark_theflash.storage.store.manifest import Generation, View
from pyspark_theflash.storage.store.stopped import STOPPED_KIND, stopped_regions
from pyspark_theflash.testing.stores import column
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.fuzz.mutate import TEXT_WORDS, bytes_like, json_like
from tests.fuzz.run import Target
from tests.fuzz.targets.tikv import change_events

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBER = f"{7:020d}"
_FIELD, _ROW, _NULL = b"\xfe", b"\xfd", b"\xfc"
_TEXT = {"charset": "utf8mb4", "collate": "utf8mb4_bin"}
_BYTES = {"charset": "binary"}
_COLUMNS = (
    ("k", MySQLType.VARCHAR, _TEXT, "né'\\".encode()),
    ("n", MySQLType.NEWDECIMAL, {"flen": 9, "decimal": 2}, b"-1.50"),
    ("e", MySQLType.ENUM, {"elems": ["a", "b"]}, b"2"),
    ("f", MySQLType.DOUBLE, {}, b"1.7e+308"),
    ("b", MySQLType.BIT, {"flen": 9}, b"\x01\xff"),
    ("ts", MySQLType.TIMESTAMP, {"decimal": 3}, b"2024-02-03 04:05:06.123"),
    ("tiny", MySQLType.TINY, {}, b"-128"),
    ("big", MySQLType.LONGLONG, {"flag": 32}, b"18446744073709551615"),
    ("float", MySQLType.FLOAT, {}, b"0.10000000149011612"),
    ("date", MySQLType.DATE, {}, b"2024-02-29"),
    ("datetime", MySQLType.DATETIME, {"decimal": 6}, b"9999-12-31 23:59:59.999999"),
    ("time", MySQLType.TIME, {"decimal": 2}, b"-838:59:59.00"),
    ("year", MySQLType.YEAR, {}, b"2155"),
    ("blob", MySQLType.BLOB, _BYTES, b"\xff\x00"),
    ("set", MySQLType.SET, {"elems": ["a", "b"]}, b"3"),
    ("json", MySQLType.JSON, {}, b'{"a": [1, 2.5, null]}'),
)
_KEYS = 6
"""The first columns are the key, which becomes literals."""


def etcd_watch(_: Path) -> Target:
    """Responses of a watch of PD's etcd, and the keys after them."""
    key = f"{IMPORT_PREFIX}lightning/1".encode()
    events = [
        kv_pb2.Event(type=kind, kv=kv_pb2.KeyValue(key=key, mod_revision=9, value=b"{}"))
        for kind in (kv_pb2.Event.PUT, kv_pb2.Event.DELETE)
    ]
    header = kv_pb2.ResponseHeader(revision=12)
    messages = [
        kv_pb2.WatchResponse(header=header, events=events),
        kv_pb2.WatchResponse(header=header, created=True),
        kv_pb2.WatchResponse(header=header),
        kv_pb2.WatchResponse(canceled=True, cancel_reason="overloaded"),
        kv_pb2.WatchResponse(canceled=True, compact_revision=11),
        kv_pb2.RangeResponse(header=header, kvs=[events[0].kv]),
    ]

    def parse(data: bytes) -> None:
        with suppress(CodecError):
            pd_wire.decode_revision(data)
        keys = WatchedKeys(5).after(pd_wire.decode_key_changes(data))
        assert keys.revision >= keys.changed

    seeds = [each.SerializeToString() for each in messages]
    return Target([seeds[0]], bytes_like(seeds), parse)


def follow_record(_: Path) -> Target:
    """Each record of a follower, with every body."""
    documents = [
        {"ts": 9, "tables": [[108, 104], [109, 104]]},
        ["other.*", "stock.items"],
        [[300, 500], [500, 500]],
        470619616527253505,
        [7, "its log has a bulk load"],
        {"at": "[1, [\"'a'\"], 3]", "rows": 3},
        {"source": "mysql"},
        [1, ["'a'"] * _KEYS, 0],
    ]
    readers: list[tuple[str, str, Callable[[View], object]]] = [
        (LOAD_KIND, "entry", EntryPlan.of),
        (LOAD_KIND, f"add-{_NUMBER}", adds_of),
        (ENTERED_KIND, _NUMBER, _gaps),
        (COMPARED_KIND, _NUMBER, compared_of),
        (IMPORTS_KIND, "", imports_revision),
        (STOPPED_KIND, _NUMBER, stopped_regions),
        (BASE_LOAD_KIND, _NUMBER, places_of),
        (BASE_LOAD_KIND, "plan", plan_source),
    ]

    def parse(data: bytes) -> None:
        for kind, key, read in readers:
            with suppress(CodecError):
                read(View(Generation(1), {kind: {key: data}}))
        list(_base([]).pages(_TABLE, data.decode(errors="replace")))

    seed = json.dumps(documents[-1]).encode()
    return Target([seed], json_like(documents), parse)


def _gaps(view: View) -> None:
    for entered in entered_of(view).values():
        entered.readable_from(TimeStamp(entered.loaded_ts(TimeStamp(400))))


def recording(folder: Path) -> Target:
    """A recording of a change feed, as `theflash capture --show` prints it."""
    path = folder / "seed"
    made = Recording(path, SystemClock())
    made.add(1, 4, OPENED, b"EventFeedV2")
    every = RawKeyRange(RawKey(b"a"), RawKey(b"b"))
    ids = RegionID(2), RegionEpoch(1, 2), 1
    made.add(1, 4, REQUEST, register_request(7, *ids, every, TimeStamp(9)))
    for frame in change_events(folder).seeds:
        made.add(1, 4, FRAME, frame)
        made.flush()
    made.close()
    seed = path.read_bytes()

    def parse(data: bytes) -> None:
        (folder / "input").write_bytes(data)
        for item in read_recording(folder / "input"):
            for line in lines_of(item):
                assert line

    return Target([seed], bytes_like([seed]), parse)


def sql_base_rows(_: Path) -> Target:
    """Rows of a TiDB over SQL, as texts, and the place of the last one."""
    row = _FIELD.join(value for *_, value in _COLUMNS)
    second = row.replace(b"n\xc3\xa9", b"o").replace(b'{"a": [1, 2.5, null]}', _NULL)
    seeds = [row, row + _ROW + second]

    def parse(data: bytes) -> None:
        rows = [
            tuple(None if value == _NULL else value for value in line.split(_FIELD))
            for line in data.split(_ROW)
        ]
        for page in _base(rows).pages(_TABLE, None):
            with suppress(CorruptionError):  # no rows follow, but are counted
                list(_base([]).pages(_TABLE, page.at))

    return Target(seeds, bytes_like(seeds, (*TEXT_WORDS, _FIELD, _ROW, _NULL)), parse)


def _table() -> TableInfo:
    columns = [column(name, tp, **more) for name, tp, more, _ in _COLUMNS]
    key = [{"name": each["name"], "offset": n, "length": -1} for n, each in enumerate(columns)]
    primary = {"id": 1, "idx_name": {"O": "PRIMARY"}, "is_primary": True, "idx_cols": key[:_KEYS]}
    document = {
        "id": 1,
        "name": {"O": "t"},
        "cols": [{"id": n + 1, "offset": n, **each} for n, each in enumerate(columns)],
        "index_info": [{**primary, "is_unique": True, "state": 5}],
        "pk_is_handle": False,
        "is_common_handle": True,
        "common_handle_version": 1,
    }
    return parse_table_info("d", document)


_TABLE = _table()


class _Session:
    """A TiDB that returns rows, for one query."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def query(self, statement: str) -> list[Row]:
        return [(b"%d" % len(self._rows),)] if "COUNT" in statement else []

    def page(self, statement: str, most_bytes: int) -> tuple[list[Row], int, bool]:
        return self._rows, most_bytes, False

    def close(self) -> None:
        """Do nothing."""


def _base(rows: list[Row]) -> SnapshotBase:
    clock: Clock = SystemClock()
    return SnapshotBase(lambda: _Session(rows), clock)
