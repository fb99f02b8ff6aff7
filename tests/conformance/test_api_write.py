"""Writing over every way that carries rows: atomic and repeatable.

What was written is compared with what was meant to be, row by row at every timestamp, and with a
store of the engine alone.
"""

import random
import threading
from contextlib import ExitStack
from dataclasses import replace

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    LatchLostError,
    OptionError,
    RegionNotFoundError,
    RoleError,
    SchemaConflictError,
    SchemaFileError,
    SchemaOutdatedError,
    TheFlashError,
    TransactionConflictError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.api.write import WRITE_BYTES_MAX
from pyspark_theflash.service.wire.message import (
    AcquireRequest,
    LatchScope,
    Moment,
    SchemaChange,
)
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.ways import FRAMED, Way, marked
from tests.support.writes import latch, request, schema_change, versions, write

ITEMS = table_info(7, "shop.items", [id_column(), column("name", MySQLType.VARCHAR, flen=20)])
OTHER = table_info(8, "shop.other", [id_column()])
START = {"start_ts": 100, "schema": (schema_change(ITEMS, 100), schema_change(OTHER, 100))}


@pytest.fixture(params=marked(FRAMED))
def way(request, tmp_path):
    with ExitStack() as undo:
        yield Way(request.param, tmp_path, undo)


@pytest.fixture
def store(tmp_path):
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    return tmp_path / "store"


@pytest.fixture
def api(way, store):
    """A store with two tables and nothing in them, and a latch on all of it."""
    opened = way.open(store)
    opened.held = latch(opened)
    write(opened, opened.held, {}, resolved_ts=100, **START)
    return opened


def rows(api, ts, table="shop.items"):
    plan = api.plan(table, moment=Moment(ts))
    cells = [tuple(row.values()) for batch in api.read(plan) for row in batch.to_pylist()]
    api.release(plan.snapshot)
    return sorted(cells)


def state(api):
    """All that a refused write must leave as it is."""
    status = api.status()
    summary = (status.generation, status.resolved_ts, status.position, status.rows)
    return summary, status.ledger_entries


def test_rows_of_several_tables_at_once(api):
    done = write(
        api,
        api.held,
        {
            ITEMS: [(1, 150, 140, [1, "tea"]), (2, 160, 141, [2, None])],
            OTHER: [(9, 150, 140, [9])],
        },
        resolved_ts=200,
        position="a place",
    )
    assert (done.rows, done.transactions, done.repeated, done.resolved_ts) == (3, 2, 0, 200)
    assert rows(api, 149) == []
    assert rows(api, 150) == [(1, "tea")]
    assert rows(api, 200) == [(1, "tea"), (2, None)]
    assert rows(api, 150, "shop.other") == [(9,)]
    status = api.status()
    assert (status.resolved_ts, status.position, status.oldest_ts) == (200, "a place", 100)
    write(api, api.held, {ITEMS: [(1, 210, 205, None), (3, 211, 206, [3, "x"])]}, resolved_ts=300)
    assert rows(api, 200) == [(1, "tea"), (2, None)]
    assert rows(api, 300) == [(2, None), (3, "x")]
    assert api.status().position == "a place"


def test_writers_at_once(way, store, api):
    """Each has a table; a compaction runs between. All acknowledged rows are stored."""
    api.release_latch(api.held)
    counts, steps = {}, 3

    def load(table, first_ts):
        mine = way.open(store)
        held = latch(mine, LatchScope(table.full_name), name=table.full_name)
        done = [
            write(mine, held, {table: [(n, ts, ts - 100, [n] + ["x"] * (table is ITEMS))]})
            for n, ts in enumerate(range(first_ts, first_ts + steps))
        ]
        mine.release_latch(held)
        counts[table] = [each.transactions for each in done]

    threads = [threading.Thread(target=load, args=args) for args in ((ITEMS, 220), (OTHER, 240))]
    for thread in threads:
        thread.start()
    api.compact()
    for thread in threads:
        thread.join()
    assert counts == {ITEMS: [1] * steps, OTHER: [1] * steps}
    write(api, latch(api), {}, resolved_ts=300)
    assert rows(api, 300) == [(n, "x") for n in range(steps)]
    assert rows(api, 300, "shop.other") == [(n,) for n in range(steps)]


def test_a_history_in_any_cuts(api):
    """Written in pieces, some of them repeatedly: the rows of a model at each timestamp."""
    rng = random.Random(11)
    model, pieces, ts = {}, [], 200
    for _ in range(12):
        piece = []
        for _ in range(rng.randint(1, 4)):
            ts += rng.randint(2, 9)
            for handle in rng.sample(range(6), rng.randint(1, 3)):
                value = None if rng.random() < 0.3 else [handle, f"{ts}"]
                piece.append((handle, ts, ts - 1, value))
        pieces.append((piece, ts))
    for number, (piece, resolved_ts) in enumerate(pieces):
        for again in [*rng.sample(pieces[:number], min(number, 2)), (piece, resolved_ts)]:
            write(api, api.held, {ITEMS: again[0]}, resolved_ts=again[1])
    everything = [version for piece, _ in pieces for version in piece]
    before = state(api)
    done = write(api, api.held, {ITEMS: everything}, resolved_ts=ts)
    assert (done.rows, done.repeated) == (0, len({v[2] for v in everything}))
    assert state(api) == before
    for at in {version[1] for version in everything} | {200, ts}:
        model = {}
        for handle, commit_ts, _, value in sorted(everything, key=lambda v: v[1]):
            if commit_ts <= at:
                model[handle] = value
        assert rows(api, at) == sorted(tuple(v) for v in model.values() if v is not None)


def test_nothing_of_a_write_that_is_wrong(api):
    """Each with one good table and one that is not as it may be: all is as it was."""
    write(api, api.held, {ITEMS: [(1, 150, 140, [1, "tea"])]}, resolved_ts=200)
    before = state(api)
    good = versions(OTHER, [(1, 250, 240, [1])])
    base = versions(ITEMS, [(1, 250, 240, [1, "a"]), (2, 260, 241, None)])

    def with_column(name, values, tp=None):
        at = base.schema.names.index(name)
        tp = tp or base.schema.field(name).type
        return base.set_column(at, pa.field(name, tp), pa.array(values, tp))

    wrong = {
        "no system columns": base.drop_columns(["_op"]),
        "a system column twice": base.append_column("_op", base.column("_op")),
        "another handle": with_column("_handle", [b"1", b"2"], pa.binary()),
        "a handle that is not the key": with_column("_handle", [7, 8]),
        "another type": with_column("c2", [1, 2], pa.int64()),
        "commit_ts of another type": with_column("_commit_ts", [250, 260], pa.int64()),
        "a column too few": base.drop_columns(["c2"]),
        "a column too many": base.append_column("c9", pa.array([1, 2])),
        "a column twice": base.append_column("c2", base.column("c2")),
        "unsorted": base.take([1, 0]),
        "a version twice": pa.concat_tables([base.slice(0, 1), base]),
        "an operation that is none": with_column("_op", [1, 7]),
        "NULL as operation": with_column("_op", [1, None]),
        "a delete with values": with_column("c2", [None, "x"]),
        "NULL in a column without": with_column("c1", [None, None]),
        "start above commit": with_column("_start_ts", [251, 240]),
        "no start": with_column("_start_ts", [0, 240]),
        "two commits of a transaction": with_column("_start_ts", [240, 240]),
        "the end of time": with_column("_commit_ts", [250, 2**64 - 1]),
        "dictionaries": with_column("c2", ["a", None]).set_column(
            5, "c2", base.column("c2").dictionary_encode()
        ),
    }
    for name, table in wrong.items():
        with pytest.raises(CodecError) as caught:
            api.write(request(api.held, [OTHER, ITEMS], resolved_ts=300), [good, table])
        assert state(api) == before, name
        assert "tea" not in str(caught.value)
    with pytest.raises(CodecError):
        api.write(request(api.held, [ITEMS, ITEMS], resolved_ts=300), [base, base])
    with pytest.raises(CodecError):
        api.write(request(api.held, [ITEMS, OTHER], resolved_ts=300), [base])
    unknown = table_info(9, "shop.unknown", [id_column()])
    with pytest.raises(SchemaOutdatedError):
        write(api, api.held, {OTHER: [(1, 250, 240, [1])], unknown: [(1, 250, 240, [1])]})
    assert state(api) == before
    api.write(request(api.held, [OTHER, ITEMS], resolved_ts=300), [good, base])
    assert rows(api, 250) == [(1, "a")]


def test_another_content_under_a_transaction(api):
    write(api, api.held, {ITEMS: [(1, 150, 140, [1, "tea"])]}, resolved_ts=200)
    before = state(api)
    for rows_of, ts in (
        ([(1, 150, 140, [1, "milk"])], 300),
        ([(1, 150, 140, [1, None])], 300),
        ([(1, 150, 140, None)], 300),
        ([(2, 150, 140, [2, "tea"])], 300),
        ([(1, 151, 140, [1, "tea"])], 300),
        ([(1, 250, 140, [1, "tea"])], 300),
        ([(1, 150, 140, [1, "tea"]), (2, 150, 140, [2, "x"])], 300),
        ([(1, 160, 141, [1, "late"])], 300),
        ([(5, 200, 199, [5, "late"])], 300),
    ):
        with pytest.raises(TransactionConflictError):
            write(api, api.held, {ITEMS: rows_of}, resolved_ts=ts)
        assert state(api) == before
    with pytest.raises(TransactionConflictError):
        write(api, api.held, {ITEMS: [(1, 250, 240, None)], OTHER: [(1, 251, 240, [1])]})
    assert api.collect_garbage(200)
    done = write(api, api.held, {ITEMS: [(1, 150, 140, [1, "tea"])]}, resolved_ts=200)
    assert (done.rows, done.repeated) == (0, 1)


def test_what_latches_are_for(way, api):
    """Without one that covers all that is written, nothing is."""
    before = state(api)
    one = {ITEMS: [(1, 150, 140, [1, "a"])]}
    for wrong in ((), replace(api.held, token=api.held.token + 1), replace(api.held, id="x")):
        with pytest.raises((OptionError, LatchLostError)):
            write(api, wrong, one, resolved_ts=200)
    api.release_latch(api.held)
    with pytest.raises(LatchLostError):
        write(api, api.held, one, resolved_ts=200)
    on_other = latch(api, LatchScope("shop.other"))
    with pytest.raises(OptionError, match="none covers"):
        write(api, on_other, one)
    read = api.acquire_latch(AcquireRequest("read", name="r"))
    with pytest.raises(OptionError, match="read latch"):
        write(api, read, one)
    on_items = latch(api, LatchScope("shop.items"))
    for of_the_store in ({"resolved_ts": 200}, {"position": "x"}, {"schema": START["schema"]}):
        with pytest.raises(OptionError, match="whole store"):
            write(api, on_items, one, **of_the_store)
    assert state(api) == before
    both = {**one, OTHER: [(1, 150, 140, [1])]}
    with pytest.raises(OptionError):
        write(api, on_items, both)
    assert write(api, [on_items, on_other], both).rows == 2
    api.release_latch(on_items)
    api.release_latch(on_other)
    # It is readable only after the holder of the store's latch raises `resolved_ts`.
    assert api.status().resolved_ts == 100
    held = latch(api)
    write(api, held, {}, resolved_ts=200)
    assert rows(api, 200) == [(1, "a")]


def test_a_latch_on_a_region(api):
    write(api, api.held, {ITEMS: [(n, 150, 140, [n, "a"]) for n in range(5)]}, resolved_ts=200)
    api.release_latch(api.held)
    held = latch(api, LatchScope("shop.items", 0, 7, 1))
    assert write(api, held, {ITEMS: [(9, 250, 240, [9, "b"])]}).rows == 1
    with pytest.raises(RegionNotFoundError):
        latch(api, LatchScope("shop.items", 0, 7, 2))


def test_schema_changes(api):
    wider = table_info(
        7,
        "shop.items",
        [
            id_column(),
            column("name", MySQLType.VARCHAR, flen=20),
            column("price", MySQLType.LONGLONG, origin_default="5"),
        ],
    )
    write(api, api.held, {ITEMS: [(1, 150, 140, [1, "tea"])]}, resolved_ts=200)
    change = schema_change(wider, 250)
    with pytest.raises(CodecError, match="changes at 250"):
        write(
            api,
            api.held,
            {ITEMS: [(2, 240, 239, [2, "x"]), (3, 260, 259, [3, "y"])]},
            schema=(change,),
            resolved_ts=300,
        )
    write(api, api.held, {wider: [(2, 260, 259, [2, "x", 7])]}, schema=(change,), resolved_ts=300)
    assert rows(api, 240) == [(1, "tea")]
    assert rows(api, 300) == [(1, "tea", 5), (2, "x", 7)]
    again = {"schema": (change,), "resolved_ts": 300}
    assert write(api, api.held, {wider: [(2, 260, 259, [2, "x", 7])]}, **again).repeated == 1
    dropped = SchemaChange(350, "shop", 8)
    write(api, api.held, {}, schema=(dropped,), resolved_ts=400)
    assert [t.name for t in api.tables().tables] == ["shop.items"]
    before = state(api)
    wrong = {
        SchemaConflictError: SchemaChange(300, "shop", 7, ITEMS.json_text),
        SchemaFileError: SchemaChange(500, "shop", 7, "{}"),
        CodecError: SchemaChange(500, "shop", 7, "{"),
    }
    for error, event in wrong.items():
        with pytest.raises(error):
            write(api, api.held, {}, schema=(event,), resolved_ts=500)
    with pytest.raises(CodecError):
        write(api, api.held, {}, schema=(replace(change, ts=500, table_id=9),), resolved_ts=500)
    assert state(api) == before


def test_the_first_write_says_where_the_store_begins(way, store):
    api = way.open(store)
    held = latch(api)
    for missing in ({}, {"start_ts": 100}, {"resolved_ts": 100}):
        with pytest.raises(OptionError, match="first write needs"):
            write(api, held, {}, **missing)
    base = {ITEMS: [(n, 100, 100, [n, "base"]) for n in range(3)]}
    done = write(api, held, base, resolved_ts=150, **START)
    assert (done.rows, done.transactions) == (3, 1)
    assert rows(api, 100) == [(n, "base") for n in range(3)]
    assert write(api, held, base, resolved_ts=150, **START).repeated == 1
    with pytest.raises(OptionError):
        write(api, held, {}, start_ts=99, resolved_ts=200)
    with pytest.raises(OptionError):
        write(api, held, {}, position="x" * 5000)


def test_too_much(api):
    """Rejected before it is sent, and by the server if it is sent nevertheless."""
    table = versions(ITEMS, [(1, 150, 140, [1, "a" * (1 << 22)])])
    huge = pa.concat_tables([table] * (WRITE_BYTES_MAX >> 22))
    before = state(api)
    with pytest.raises(OptionError, match="more than"):
        api.write(request(api.held, [ITEMS]), [huge])
    assert state(api) == before


def test_batches_of_any_size(api):
    """Many batches, and more than one frame."""
    count = 30_000
    table = versions(ITEMS, [(n, 150, 140, [n, f"{n} " * 50]) for n in range(count)])
    cut = pa.Table.from_batches(table.to_batches(max_chunksize=1000))
    done = api.write(request(api.held, [ITEMS], resolved_ts=200), [cut])
    assert done.rows == count
    written = rows(api, 200)
    assert len(written) == count
    assert written[-1] == (count - 1, f"{count - 1} " * 50)


@pytest.mark.parametrize("way", ["tcp, tls and token"], indirect=True)
def test_roles(way, api, store):
    reader, writer = way.open(store, Role.READ), way.open(store, Role.WRITE)
    rows_of = {ITEMS: [(1, 150, 140, [1, "a"])]}
    with pytest.raises(RoleError):
        write(reader, api.held, rows_of, resolved_ts=200)
    assert reader.status().resolved_ts == 100
    api.release_latch(api.held)
    assert write(writer, latch(writer), rows_of, resolved_ts=200).rows == 1


@pytest.mark.parametrize("way", ["flight", "grpc"], indirect=True)
def test_ways_without_rows(way, store):
    with pytest.raises((UnsupportedError, TheFlashError)):
        way.open(store).write(request(()))
