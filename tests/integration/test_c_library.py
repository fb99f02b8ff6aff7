"""`libtheflash.so`, used by a C program, and by another implementation of Arrow."""

import ctypes
import json
import os
import subprocess
import threading
from datetime import datetime, timezone
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import LibraryBuildError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.capi.build import build
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.serving import serving
from tests.support.workloads import make_store, workload
from tests.support.writes import versions

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLE = "bank.acc_int"
ITEMS = table_info(7, "shop.items", [id_column(), column("name", MySQLType.VARCHAR, flen=20)])
USAGE, NOT_FOUND, NOT_READABLE, NOT_WELL_FORMED = 2, 3, 4, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("lib")
    try:
        build(made)
    except LibraryBuildError as error:
        pytest.skip(str(error))
    return made


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return make_store(workload("bank"), tmp_path_factory.mktemp("bank") / "store")


@pytest.fixture(scope="module")
def compiled(folder):
    """Compile an example."""

    def compiled(name):
        made = folder / name
        compiler = os.environ.get("CC", "cc").split()
        flags = ["-Wall", "-Wextra", "-Werror", "-std=c11", f"-I{folder}", f"-L{folder}"]
        command = [*compiler, str(EXAMPLES / f"{name}.c"), *flags, f"-Wl,-rpath,{folder}"]
        subprocess.run([*command, "-ltheflash", "-o", str(made)], check=True, timeout=60)
        return made

    return compiled


@pytest.fixture(scope="module")
def program(compiled):
    return compiled("scan")


def run(program, *arguments):
    """Run a program with only this package in its environment; return its status and output."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(EXAMPLES.parent)},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_c_program_reads_a_table(program, bank):
    with open_snapshot(bank) as snapshot:
        table = pa.Table.from_batches(snapshot.scan(TABLE), snapshot.plan(TABLE).schema)
    status, shown, complaints = run(program, bank, TABLE)
    assert (status, complaints) == (0, "")
    *columns, count = shown.splitlines()
    assert [c.partition(":")[0] for c in columns] == table.column_names
    assert count == f"{table.num_rows} rows"


def test_a_c_program_reads_as_of_a_timestamp(program, bank):
    answer = next(a for a in workload("bank").answers() if a.table == TABLE)
    status, shown, _ = run(program, bank, TABLE, answer.snapshot_ts)
    assert (status, shown.splitlines()[-1]) == (0, f"{answer.rows} rows")


def test_a_c_program_reads_as_of_a_time(program, bank):
    answers = [a for a in workload("bank").answers() if a.table == TABLE]
    answer = answers[len(answers) // 2]
    moment = datetime.fromtimestamp(((answer.snapshot_ts >> 18) + 1) / 1000, timezone.utc)
    status, shown, _ = run(program, bank, TABLE, moment.isoformat())
    assert (status, shown.splitlines()[-1]) == (0, f"{answer.rows} rows")
    for moment in ("2026-11-21 08:05:06", str(answer.snapshot_ts >> 18), str(2**64 - 1)):
        status, _, complaints = run(program, bank, TABLE, moment)
        assert status != 0
        assert "OptionError" in complaints


def test_a_c_program_is_told_what_is_wrong(program, bank, tmp_path):
    assert "StoreNotFoundError: no store at" in run(program, tmp_path / "none", TABLE)[2]
    assert "TableNotFoundError" in run(program, bank, "bank.none")[2]
    assert "SnapshotTooOldError" in run(program, bank, TABLE, 7)[2]


def test_a_c_program_writes_what_another_reads(compiled, program, tmp_path):
    store = tmp_path / "store"
    registry.create(store, registry.MAGIC, LocalFileSystem())
    status, shown, complaints = run(compiled("write"), store)
    assert (status, complaints) == (0, "")
    assert json.loads(shown).items() >= {"rows": "3", "transactions": "2"}.items()
    assert run(program, store, "shop.items")[1].splitlines()[-1] == "2 rows"
    with open_snapshot(store, 110) as snapshot:
        assert pairs(snapshot) == [(1, "tea"), (2, "milk")]
    with open_snapshot(store) as snapshot:
        assert pairs(snapshot) == [(1, "green tea"), (2, "milk")]
        assert snapshot.snapshot_ts == 200


def pairs(snapshot):
    rows = (batch.to_pylist() for batch in snapshot.scan("shop.items"))
    return sorted(tuple(row.values()) for batch in rows for row in batch)


class Stream(ctypes.Structure):
    """ArrowArrayStream."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("schema", "next", "error", "release", "data")]

    def __arrow_c_stream__(self, requested_schema=None):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        return new(ctypes.addressof(self), b"arrow_array_stream", None)


class Library:
    """The C functions, called from Python as from anywhere."""

    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))
        self.c.theflash_last_error.restype = ctypes.c_char_p
        self.c.theflash_free.argtypes = [ctypes.c_void_p]

    @property
    def error(self):
        return self.c.theflash_last_error().decode()

    def open(self, where, options=None):
        store = ctypes.c_uint64()
        status = self.c.theflash_open(str(where).encode(), options, ctypes.byref(store))
        return status, store

    def call(self, store, method, request=None):
        answer = ctypes.c_void_p()
        status = self.c.theflash_call(store, method, request, 0, ctypes.byref(answer))
        if status:
            return status, None
        try:
            return status, json.loads(ctypes.string_at(answer.value))
        finally:
            self.c.theflash_free(answer)

    def read(self, store, request):
        stream = Stream()
        return self.c.theflash_read(store, request, ctypes.byref(stream)), stream

    def write(self, store, request, *tables):
        """Return the response, and whether all streams were released."""
        streams = (Stream * len(tables))()
        for stream, table in zip(streams, tables, strict=True):
            table.to_reader(max_chunksize=2)._export_to_c(ctypes.addressof(stream))
        written = ctypes.c_void_p()
        encoded = None if request is None else json.dumps(request).encode()
        arguments = streams or None, len(tables), 0, ctypes.byref(written)
        status = self.c.theflash_write(store, encoded, *arguments)
        assert not any(stream.release for stream in streams)
        if status:
            return status, None
        try:
            return status, json.loads(ctypes.string_at(written.value))
        finally:
            self.c.theflash_free(written)


@pytest.fixture(scope="module")
def library(folder):
    return Library(folder / "libtheflash.so")


@pytest.fixture
def shop(tmp_path):
    rows = [(n, 150, (n, f"name {n % 3}")) for n in range(1000)]
    return StoreBuilder(tmp_path / "shop", ITEMS).publish(200, {ITEMS: rows}).path


@pytest.mark.parametrize("way", ["folder", "server"])
def test_another_arrow_reads_the_stream(library, shop, way, tmp_path):
    address = f"unix:{tmp_path / 's.sock'}"
    with serving(shop, address):
        status, store = library.open(shop if way == "folder" else address)
        assert status == 0
        status, stream = library.read(store, b'{"table": "shop.items"}')
        assert status == 0, library.error
        with duckdb.connect() as query:
            query.register("items", stream)
            groups = query.sql(
                "SELECT name, count(*), sum(id) FROM items GROUP BY ALL ORDER BY name"
            )
            assert groups.fetchall() == [
                (f"name {k}", len(range(k, 1000, 3)), sum(range(k, 1000, 3))) for k in range(3)
            ]
        assert library.c.theflash_close(store) == 0


def test_plan_and_scan(library, shop):
    _, store = library.open(shop)
    plan = ctypes.c_void_p()
    assert library.c.theflash_plan(store, b'{"table": "shop.items"}', ctypes.byref(plan)) == 0
    (split,) = json.loads(ctypes.string_at(plan.value))["splits"]
    library.c.theflash_free(plan)
    stream = Stream()
    ticket = split["ticket"].encode()
    assert library.c.theflash_scan(store, ticket, 1, ctypes.byref(stream)) == 0, library.error
    table = pa.RecordBatchReader._import_from_c(ctypes.addressof(stream)).read_all()
    assert table.num_rows == 1000
    assert pa.types.is_dictionary(table.schema.field("name").type)


ROWS = [(0, 150, 140, [0, "tea"]), (1, 150, 140, [1, "milk"]), (1, 160, 155, None)]
BEGIN = {
    "schema": [{"ts": "100", "db": "shop", "tableId": "7", "tableInfo": ITEMS.json_text}],
    "startTs": "100",
}


@pytest.fixture
def empty(tmp_path):
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    return tmp_path / "store"


def latched(library, store):
    """A write latch on all of a store, as a request names it."""
    status, latch = library.call(store, b"AcquireLatch", b'{"kind": "write", "name": "c"}')
    assert status == 0, library.error
    return {"id": latch["id"], "token": latch["token"]}


@pytest.mark.parametrize("way", ["folder", "server"])
def test_write(library, empty, way, tmp_path):
    """Like the API's Write: durable, atomic and idempotent."""
    address = f"unix:{tmp_path / 's.sock'}"
    with serving(empty, address):
        _, store = library.open(empty if way == "folder" else address)
        latch = latched(library, store)
        request = {"latches": [latch], "tables": [{"tableId": "7"}], **BEGIN, "resolvedTs": "200"}
        status, written = library.write(store, request, versions(ITEMS, ROWS))
        assert status == 0, library.error
        assert written.items() >= {"rows": "3", "transactions": "2", "resolvedTs": "200"}.items()
        status, written = library.write(store, request, versions(ITEMS, ROWS))
        assert (status, written["repeated"]) == (0, "2")
        with open_snapshot(empty) as snapshot:
            assert pairs(snapshot) == [(0, "tea")]
        later = {"latches": [latch], "tables": [{"tableId": "7"}], "resolvedTs": "300"}
        other = versions(ITEMS, [(0, 150, 140, [0, "another"])])
        assert library.write(store, later, other)[0] != 0
        assert library.error.startswith("TransactionConflictError")
        assert library.write(store, later)[0] == NOT_WELL_FORMED
        assert library.error.startswith("CodecError")
        # Progress alone.
        del later["tables"]
        assert library.write(store, later)[0] == 0
        assert library.call(store, b"ReleaseLatch", json.dumps(latch).encode())[0] == 0
        later["resolvedTs"] = "400"
        assert library.write(store, later)[0] != 0
        assert library.error.startswith("LatchLostError")
        assert library.call(store, b"GetStatus")[1]["resolvedTs"] == "300"
        library.c.theflash_close(store)


def test_a_store_that_a_stream_feeds(library, bank):
    """Its progress is that of the stream, regardless of latches."""
    _, store = library.open(bank)
    before = library.call(store, b"GetStatus")[1]
    latch = latched(library, store)
    request = {"latches": [latch], "resolvedTs": str(int(before["resolvedTs"]) + 1)}
    assert library.write(store, request)[0] != 0
    assert library.error.startswith("FeedConflictError")
    assert library.call(store, b"ReleaseLatch", json.dumps(latch).encode())[0] == 0
    assert library.call(store, b"GetStatus")[1]["generation"] == before["generation"]
    library.c.theflash_close(store)


def test_what_cannot_be_written_is_released_all_the_same(library, empty):
    _, store = library.open(empty)
    table = versions(ITEMS, ROWS)
    assert library.write(store, None, table)[0] == USAGE
    assert library.write(store, {"latches": 7}, table, table)[0] == NOT_WELL_FORMED
    assert library.write(ctypes.c_uint64(999), {}, table)[0] == USAGE
    assert "is not open" in library.error
    assert library.write(store, {"tables": [{"tableId": "7"}]}, table)[0] == USAGE
    assert "a write needs a write latch" in library.error
    null, one = None, Stream()
    table.to_reader()._export_to_c(ctypes.addressof(one))
    assert library.c.theflash_write(store, b"{}", ctypes.byref(one), 1, 0, null) == USAGE
    assert not one.release
    written = ctypes.c_void_p()
    assert library.c.theflash_write(store, b"{}", null, 1, 0, ctypes.byref(written)) == USAGE

    def breaking():
        yield table.to_batches()[0]
        raise OSError("a value of a row")

    reader = pa.RecordBatchReader.from_batches(table.schema, breaking())
    reader._export_to_c(ctypes.addressof(one))
    request = b'{"tables": [{"tableId": "7"}]}'
    arguments = ctypes.byref(one), 1, 0, ctypes.byref(written)
    assert library.c.theflash_write(store, request, *arguments) == NOT_WELL_FORMED
    assert "a stream fails" in library.error
    assert "a value of a row" not in library.error
    assert not one.release


def test_misuse_is_told(library, shop, tmp_path):
    nothing = None
    assert library.open(tmp_path / "none")[0] == NOT_FOUND
    assert library.error.startswith("StoreNotFoundError: no store at")
    assert library.open(shop, b'{"token": "x"}')[0] == USAGE
    assert library.c.theflash_open(nothing, nothing, ctypes.byref(ctypes.c_uint64())) == USAGE
    assert "'where': is NULL" in library.error
    assert library.c.theflash_open(b"/x", nothing, nothing) == USAGE
    assert library.c.theflash_open(b"\xff", nothing, ctypes.byref(ctypes.c_uint64())) == USAGE
    assert "not UTF-8" in library.error
    _, store = library.open(shop)
    assert library.call(store, b"GetStatus")[1]["engine"] == "magic"
    assert library.call(store, b"Nothing")[0] != 0
    assert "UnknownMethodError" in library.error
    assert library.c.theflash_call(store, b"GetStatus", nothing, 0, nothing) == USAGE
    assert library.read(store, b'{"table": "shop.none"}')[0] == NOT_FOUND
    request = b'{"table": "shop.items", "moment": {"snapshotTs": "999"}}'
    assert library.read(store, request)[0] == NOT_READABLE
    assert library.c.theflash_read(store, b"{}", nothing) == USAGE
    library.c.theflash_close(store)
    assert library.call(store, b"GetStatus")[0] == USAGE
    assert "is not open" in library.error


def test_a_stream_that_breaks_does_not_end(library, shop):
    for file in (shop / "data").rglob("*.parquet"):
        content = bytearray(file.read_bytes())
        content[len(content) // 3] ^= 1
        file.write_bytes(content)
    _, store = library.open(shop)
    status, stream = library.read(store, b'{"table": "shop.items"}')
    assert status == 0
    with pytest.raises(OSError, match="CorruptionError"):
        pa.RecordBatchReader._import_from_c(ctypes.addressof(stream)).read_all()


def test_many_threads(library, shop):
    _, store = library.open(shop)
    counts = []

    def read():
        for _ in range(5):
            status, stream = library.read(store, b'{"table": "shop.items"}')
            assert status == 0
            reader = pa.RecordBatchReader._import_from_c(ctypes.addressof(stream))
            counts.append(reader.read_all().num_rows)
            assert library.call(store, b"Nothing")[0] != 0

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1000] * 30
    assert library.call(store, b"ListLatches")[1].get("latches", []) == []
