"""Parts of a store: records, transient records, data files."""

import json
import random
import zlib
from contextlib import ExitStack
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import (
    ColumnID,
    FencingToken,
    Generation,
    PhysicalTableID,
    RegionID,
    TableID,
    TimeStamp,
)
from pyspark_theflash.storage.engine.magic import file as data_file_module
from pyspark_theflash.storage.engine.magic.encode import EncodedFile
from pyspark_theflash.storage.engine.magic.file import (
    DataFile,
    FileKind,
    parquet_file,
    reading,
    with_stored_columns,
)
from pyspark_theflash.storage.engine.magic.layout import Layouts, RegionFiles
from pyspark_theflash.storage.engine.magic.region import Region
from pyspark_theflash.storage.mvcc.version import version_schema
from pyspark_theflash.storage.store.catalog import (
    SCHEMA_KIND,
    pack_event,
    schema_history,
    unpack_event,
)
from pyspark_theflash.storage.store.command import State, StoreCommand, Verb
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import (
    Grant,
    Latch,
    LatchKind,
    LatchRequest,
    LatchScope,
)
from pyspark_theflash.storage.store.load import LOAD_KIND, LoadPlan, stripes_of
from pyspark_theflash.storage.store.manifest import Head, View
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.purged import PURGED_KIND, purged_at
from pyspark_theflash.storage.store.scope import SCOPE_KIND, TableScope
from pyspark_theflash.storage.store.setting import SETTING_KIND, interval_ms
from pyspark_theflash.storage.store.writer_lock import LOCK_FILE, current_writer
from pyspark_theflash.tidb.schema.history import TableEvent
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.fuzz.mutate import bytes_like, json_like, patch_like, patched
from tests.fuzz.run import Target
from tests.support.data_files import encode_file
from tests.support.golden_vectors import live_tables
from tests.support.schema import tables_at

_TABLE = PhysicalTableID(7)


def schema_event(_: Path) -> Target:
    """A record of a schema event, in both formats, and its definition."""
    info = live_tables()[0]["table_info"]
    table = parse_table_info("d", info)
    packed = pack_event(TableEvent(TimeStamp(7), "d", TableID(1), table))
    gone = pack_event(TableEvent(TimeStamp(7), "d", TableID(1), None))
    head = json.loads(packed.partition(b"\n")[0])
    old = {"ts": 7, "db": "d", "table_id": 1, "table": info}
    broken = bytes_like([packed, gone])
    heads, infos, olds = (
        json_like([head]),
        json_like([info]),
        json_like([old, {**old, "table": None}]),
    )

    def mutate(rng: random.Random) -> bytes:
        dice = rng.randrange(4)
        if dice == 0:
            return broken(rng)
        if dice == 1:
            return olds(rng)
        if dice == 2:
            return heads(rng) + b"\n" + zlib.compress(json.dumps(info).encode(), 1)
        return json.dumps(head).encode() + b"\n" + zlib.compress(infos(rng), 1)

    def parse(data: bytes) -> None:
        event = unpack_event(data)
        _ = event.json_text, event.name
        hash(event)
        if event.table is not None:
            event.table.full_name.lower()

    return Target([packed, gone, json.dumps(old).encode()], mutate, parse)


def schema_span(_: Path) -> Target:
    document = {"start_ts": 1, "end_ts": 9, "versions": [[3, 1], [5, 2]]}
    event = pack_event(TableEvent(TimeStamp(7), "d", TableID(1), None))

    def parse(data: bytes) -> None:
        history = schema_history(_view(SCHEMA_KIND, {"span": data, "event-0": event}))
        if history is not None:
            tables_at(history, history.end_ts)

    return _of_json(document, parse)


def progress_record(_: Path) -> Target:
    document = {"oldest_ts": 1, "resolved_ts": 9, "position": "a:5"}
    return _of_json(document, lambda data: Progress.of(_view(PROGRESS_KIND, {"writer": data})))


def scope_record(_: Path) -> Target:
    def parse(data: bytes) -> None:
        scope = TableScope.of(_view(SCOPE_KIND, {"scope": data}))
        if scope is not None:
            scope.contains("a.b")

    return _of_json({"include": ["a.*"], "exclude": ["a.b", "*.c?"]}, parse)


def identity_record(_: Path) -> Target:
    document = {"store_id": "some-id", "engine": "magic"}
    return _of_json(
        document, lambda data: StoreIdentity.of(_view(IDENTITY_KIND, {"identity": data}))
    )


def interval_setting(_: Path) -> Target:
    seeds = [b"500", b"86400000"]
    return Target(
        seeds,
        bytes_like(seeds),
        lambda data: interval_ms(_view(SETTING_KIND, {"interval_ms": data})),
    )


def purged_record(_: Path) -> Target:
    seeds = [b"470619616527253505", b"0"]
    key = f"{_TABLE:020d}"
    return Target(
        seeds,
        bytes_like(seeds),
        lambda data: purged_at(_view(PURGED_KIND, {key: data}), _TABLE),
    )


def manifest_head(_: Path) -> Target:
    head = Head(Generation(7), FencingToken(3), {"schema": 2**127, "file": 5})
    document = json.loads(head.to_json())
    return _of_json(document, lambda data: Head.from_json(data).ack())


def file_record(_: Path) -> Target:
    """A record of a data file, of format 2 and 1, and its form in a scan."""
    encoded = _data_file()
    new = json.loads(encoded.info.to_json())
    of_bytes = {**new, "min_handle": "0300", "max_handle": "03ff"}
    old = {**new, "is_stable": True}
    for name in ("kind", "region_id", "data_bytes", "min_handle", "max_handle", "garbage_ts"):
        del old[name]
    documents = [new, of_bytes, old]
    region = Region(_TABLE, RegionID(2), 0, None).to_json()

    def parse(data: bytes) -> None:
        layouts = Layouts(_view("file", {encoded.info.key: data}))
        list(layouts.paths())
        layout = layouts[_TABLE]
        layout.scans()
        layout.stats()
        RegionFiles.from_texts([region, data.decode()])

    seeds = [json.dumps(document).encode() for document in documents]
    return Target(seeds, json_like(documents), parse)


def region_record(_: Path) -> Target:
    documents = [[7, 2, None, 5], [7, 3, "0300", None]]
    regions = {f"{7:020d}-{2:020d}": b"[7, 2, null, 9]"}

    def parse(data: bytes) -> None:
        layouts = Layouts(_view("region", {**regions, f"{7:020d}-{3:020d}": data}))
        layouts[_TABLE].stats()

    seeds = [b"[7, 3, 9, null]"]
    return Target(seeds, json_like(documents), parse)


def latch_row(_: Path) -> Target:
    clock = SystemClock()
    holder = _holder(clock)
    latches = [
        Latch("x", kind, TimeStamp(5), Generation(7), clock.boot_id(), 2**60, holder)
        for kind in LatchKind
    ]
    wanted = LatchRequest(
        LatchKind.WRITE, LatchScope(7, 7, RegionID(3)), 60_000, "loader", "user 0"
    )
    latches.append(replace(latches[0], holder=None, grant=Grant(FencingToken(9), wanted)))
    documents = [json.loads(latch.to_body()) for latch in latches] + [
        json.loads(replace(latches[0], holder=None).to_body())
    ]

    def parse(data: bytes) -> None:
        latch = Latch.from_body("x", data)
        latch.is_alive(clock)
        max(latch.generation, 0, latch.snapshot_ts)

    return Target([latch.to_body() for latch in latches], json_like(documents), parse)


def command_row(_: Path) -> Target:
    clock = SystemClock()
    failed = json.dumps(["NotCaughtUpError", 5, 7])
    command = StoreCommand("x", Verb.GC, 5, _holder(clock), 2**60)
    commands = [command, replace(command, state=State.FAILED, text=failed)]
    documents = [json.loads(each.to_body()) for each in commands]
    answers = json_like([json.loads(failed), ["OSError", 5], ["EngineError", "a", "b"]])

    def mutate(rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            text = answers(rng).decode("utf-8", "replace")
            return replace(commands[1], text=text).to_body()
        return whole(rng)

    whole = json_like(documents)

    def parse(data: bytes) -> None:
        command = StoreCommand.from_body("x", data)
        command.is_abandoned(clock)
        min(command.deadline_ms, 0)
        if command.state is State.FAILED:
            str(command.error("fuzz"))

    return Target([each.to_body() for each in commands], mutate, parse)


def _holder(clock: SystemClock) -> Holder:
    return Holder(4, "77", "pid:[4026531836]", clock.boot_id(), "host", "theflash gc")


def load_plan(_: Path) -> Target:
    document = {"ts": 7, "cluster_id": 8}
    return _of_json(document, lambda data: LoadPlan.of(_view(LOAD_KIND, {"plan": data})))


def load_stripe(_: Path) -> Target:
    document = ["7480", "7490", "748000", 5]

    def parse(data: bytes) -> None:
        for stripe in stripes_of(_view(LOAD_KIND, {"stripe-000003": data})):
            assert 0 <= stripe.share <= 1
            stripe.to_record()

    return _of_json(document, parse)


def writer_lock_text(folder: Path) -> Target:
    clock = SystemClock()
    document = astuple(_holder(clock))

    def parse(data: bytes) -> None:
        (folder / LOCK_FILE).write_bytes(data)
        str(current_writer(folder, clock))

    return _of_json(document, parse)


def data_file(folder: Path) -> Target:
    encoded = _data_file()
    (folder / encoded.info.path).parent.mkdir()
    seeds = [bytes(encoded.data)]
    return Target(seeds, bytes_like(seeds), lambda data: _read(folder, data, encoded.info))


def data_file_pages(folder: Path) -> Target:
    """A file treated as large, of which only the footer and the pages have checksums."""
    encoded = _data_file()
    (folder / encoded.info.path).parent.mkdir()
    content = bytes(encoded.data)

    def parse(data: bytes) -> None:
        whole_check_bytes = data_file_module.WHOLE_CHECK_BYTES
        data_file_module.WHOLE_CHECK_BYTES = 0  # type: ignore[misc]
        try:
            _read(folder, patched(content, data), encoded.info)
        finally:
            data_file_module.WHOLE_CHECK_BYTES = whole_check_bytes  # type: ignore[misc]

    return Target([b""], patch_like(content), parse)


def _read(folder: Path, data: bytes, info: DataFile) -> None:
    (folder / info.path).write_bytes(data)
    with reading(folder, info), ExitStack() as closing:
        parquet_file(folder, info, closing, as_dictionaries=["c2"]).read()


def _data_file() -> EncodedFile:
    rows = 50
    schema = version_schema(
        pa.int64(),
        [
            (ColumnID(1), pa.int32()),
            (ColumnID(2), pa.string()),
            (ColumnID(3), pa.decimal128(15, 2)),
            (ColumnID(4), pa.timestamp("us")),
            (ColumnID(5), pa.list_(pa.float32())),
        ],
    )
    columns: list[Any] = [
        np.arange(rows),
        np.full(rows, 5, np.uint64),
        np.full(rows, 4, np.uint64),
        np.ones(rows, np.uint8),
        pa.array([n if n % 3 else None for n in range(rows)], pa.int32()),
        pa.array([f"value {n % 5}" for n in range(rows)]),
        pa.array(range(rows), pa.int64()).cast(pa.decimal128(19, 0)).cast(pa.decimal128(15, 2)),
        pa.array(range(rows), pa.int64()).cast(pa.timestamp("us")),
        pa.array([[0.5, 1.0]] * rows, pa.list_(pa.float32())),
    ]
    arrays = [pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)]
    table = with_stored_columns(
        pa.Table.from_arrays(arrays, schema=schema),
        np.full(rows, 2**64 - 1, np.uint64),
        pa.nulls(rows, pa.uint64()),
        pa.nulls(rows, pa.uint32()),
    )
    return encode_file(table, number=1, physical_id=_TABLE, kind=FileKind.DELTA)


def _view(kind: str, records: dict[str, bytes]) -> View:
    return View(Generation(1), {kind: records})


def _of_json(document: Any, parse: Any) -> Target:
    return Target([json.dumps(document).encode()], json_like([document]), parse)
