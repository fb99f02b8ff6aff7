"""TheFlash API, the same over every way to a store.

The results of each way are compared with those of `ReadSnapshot`, which is independent of it, and
with TiDB's answers from when the workload was captured.
"""

import pickle
import threading
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone

import pyarrow as pa
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CodecError,
    ColumnNotFoundError,
    DeadlineExceededError,
    LatchHeldError,
    LatchNotFoundError,
    LeaseExpiredError,
    NotCaughtUpError,
    OptionError,
    PurgedRangeError,
    RegionNotFoundError,
    SnapshotTooOldError,
    TableNotFoundError,
    TicketError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.timestamp import parse_timestamp
from pyspark_theflash.cli.main import main as cli
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import (
    AcquireRequest,
    Aggregate,
    Aggregation,
    LatchScope,
    Moment,
    PlanRequest,
    Presentation,
    SortKey,
    TablesRequest,
)
from pyspark_theflash.service.wire.method import Role, method
from pyspark_theflash.service.wire.protobuf import decode
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.store.catalog import schema_records
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.stores import OLDEST_TS, StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.text import parse_column
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.support.every_type import NULLS, SHOWN, TABLE, VERSIONS
from tests.support.flight_client import FlightTransport
from tests.support.pushed_cases import call, literal
from tests.support.pushed_cases import column as of
from tests.support.pushed_oracle import aggregated, keeps, merged, same, sort_key
from tests.support.serving import (
    TOKENS,
    server_tls,
    serving,
    serving_flight,
    serving_workers,
    tokens,
)
from tests.support.tls import tls
from tests.support.workloads import make_store, workload

FS = LocalFileSystem()
SLOW = pytest.param("workers", marks=pytest.mark.slow)
WAYS = ("in process", "unix socket", "tcp, tls and token", "flight", SLOW)
ITEMS = table_info(
    7,
    "shop.items",
    [
        id_column(),
        column(
            "name", MySQLType.VARCHAR, flen=20, collate="utf8mb4_bin", comment="what it is called"
        ),
        column("sold", MySQLType.DATE),
        column("tags", MySQLType.SET, elems=["a", "b"]),
    ],
)
EMPTY = table_info(8, "shop.empty", [id_column()])
NAMES = ("tea", "milk", None, "tea")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return make_store(workload("bank"), tmp_path_factory.mktemp("bank") / "store")


@pytest.fixture
def shop(tmp_path):
    """A store whose newest moment is 300, and its builder."""
    rows = [(n, 110, [n, NAMES[n % 4], None, n % 4]) for n in range(100)]
    changes = [(n, 210, None if n % 2 else [n, "new", None, 0]) for n in range(0, 100, 5)]
    made = StoreBuilder(tmp_path / "store", ITEMS, EMPTY)
    return made.publish(200, {ITEMS: rows}).publish(300, {ITEMS: changes})


@pytest.fixture(params=WAYS)
def way(request, tmp_path):
    """Opens a store the way that is tested."""
    opened = []

    def enter(context):
        opened.append(context)
        return context.__enter__()

    def connected(store):
        if request.param == "in process":
            return enter(connect(store))
        if request.param == "unix socket":
            return enter(connect(enter(serving(store, f"unix:{tmp_path}/s")).address))
        if request.param == "workers":
            return enter(connect(enter(serving_workers(store, f"unix:{tmp_path}/s")).address))
        if request.param == "flight":
            served = serving_flight(store, "127.0.0.1:0", tokens=tokens(tmp_path))
            transport = FlightTransport(enter(served).address, TOKENS[Role.ADMIN].value)
            return enter(TheFlash(transport))
        secured = serving(store, "127.0.0.1:0", tokens=tokens(tmp_path), tls=server_tls())
        address = f"theflash://{enter(secured).address}"
        return enter(connect(address, token=TOKENS[Role.ADMIN], tls=tls("client")))

    yield connected
    for context in reversed(opened):
        context.__exit__(None, None, None)


def rows_of(batches):
    return sorted((row for batch in batches for row in batch.to_pylist()), key=repr)


def plainly(store, ts, *arguments, **options):
    """The rows by the planner alone."""
    with open_snapshot(store, ts) as snapshot:
        return rows_of(snapshot.scan("shop.items", *arguments, **options))


def test_tidbs_answers(way, bank):
    api = way(bank)
    answers = [a for n, a in enumerate(workload("bank").answers()) if n % 7 == 0]
    assert answers
    for answer in answers:
        digest = api.digest(answer.table, Moment(answer.snapshot_ts))
        assert (digest.rows, digest.checksum) == (answer.rows, answer.checksum)
        plan = api.plan(answer.table, moment=Moment(answer.snapshot_ts))
        assert sum(batch.num_rows for batch in api.read(plan)) == answer.rows
        api.release(plan.snapshot)


def test_rows_at_every_moment(way, shop):
    api = way(shop.path)
    for ts in (OLDEST_TS, 110, 199, 200, 209, 210, 300):
        plan = api.plan("shop.items", moment=Moment(ts))
        assert plan.snapshot.snapshot_ts == ts
        assert rows_of(api.read(plan)) == plainly(shop.path, ts)
    newest = api.plan("shop.items")
    assert newest.snapshot.snapshot_ts == 300
    assert len(rows_of(api.read(newest))) == 90


def test_columns_and_conditions(way, shop):
    api = way(shop.path)
    wanted = {"columns": ["name", "id"], "where": "id < 50 and name = 'tea'"}
    plan = api.plan("shop.items", **wanted)
    (batch, *_) = api.read(plan)
    assert batch.schema.names == ["name", "id"]
    assert pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema)) == batch.schema
    assert rows_of(api.read(plan)) == plainly(shop.path, 300, ["name", "id"], where=wanted["where"])
    none = api.plan("shop.items", [])
    assert sum(batch.num_rows for batch in api.read(none)) == 90
    assert api.plan("shop.empty").splits == ()


FILTERS = [
    call("=", of("NAME"), literal("string", "tea")),
    call("not", call("=", of("name"), literal("string", "tea"))),
    call("<=>", of("name"), literal("null")),
    call("in", of("name"), literal("string", "new"), literal("null")),
    call("in", of("id"), literal("int", "3"), literal("int", "1000"), literal("decimal", "5.5")),
    call("and", call(">", of("id"), literal("int", "9")), call("is not null", of("name"))),
    call("starts with", of("tags"), literal("string", "a,")),
    call("or", call("=", of("tags"), literal("string", "")), call("is null", of("name"))),
    call("=", of("id"), literal("int", "99999999999999999999999")),
]


@pytest.mark.parametrize("condition", FILTERS)
@pytest.mark.parametrize("where", ["", "id < 50"])
def test_filters(way, shop, condition, where):
    api = way(shop.path)
    for ts in (199, 300):
        plan = api.plan("shop.items", moment=Moment(ts), where=where, filter=condition)
        every = plainly(shop.path, ts, where=where or None)
        assert rows_of(api.read(plan)) == [row for row in every if keeps(condition, row)]
        # It may read columns that are not returned.
        ids = api.plan("shop.items", ["id"], moment=Moment(ts), where=where, filter=condition)
        expected = [{"id": row["id"]} for row in every if keeps(condition, row)]
        assert rows_of(api.read(ids)) == sorted(expected, key=repr)


AGGREGATION = Aggregation(
    ("name", "tags"),
    (
        Aggregate("count"),
        Aggregate("count", of("sold")),
        Aggregate("sum", of("id")),
        Aggregate("min", of("name")),
        Aggregate("max", of("ID")),
    ),
)


@pytest.mark.parametrize("groups", [(), ("name",), ("name", "tags")])
@pytest.mark.parametrize("condition", [None, *FILTERS[:2], FILTERS[-1]])
def test_partial_aggregates(way, shop, groups, condition):
    api = way(shop.path)
    wanted = Aggregation(groups, AGGREGATION.aggregates)
    plan = api.plan("shop.items", aggregation=wanted, filter=condition, where="id <> 7")
    batches = list(api.read(plan))
    schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
    assert {batch.schema for batch in batches} <= {schema}
    assert schema.field("a2").type == pa.decimal128(38, 0)
    every = plainly(shop.path, 300, where="id <> 7")
    expected = aggregated(wanted, [r for r in every if not condition or keeps(condition, r)])
    totals = merged(wanted, [row for batch in batches for row in batch.to_pylist()])
    # Splits without matching rows are pruned, so they return no row either.
    assert plan.splits == () if condition == FILTERS[-1] else totals.keys() == expected.keys()
    assert all(
        same(a, b) for key in totals for a, b in zip(totals[key], expected[key], strict=True)
    )


def test_counts_alone(way, shop):
    api = way(shop.path)
    counting = Aggregation((), (Aggregate("count"), Aggregate("count")))
    (batch,) = api.read(api.plan("shop.items", aggregation=counting))
    assert batch.to_pylist() == [{"a0": 90, "a1": 90}]


def test_limits_and_orders(way, shop):
    api = way(shop.path)
    every = plainly(shop.path, 300)
    assert len(rows_of(api.read(api.plan("shop.items", limit=7)))) == 7
    assert len(rows_of(api.read(api.plan("shop.items", limit=1 << 40)))) == len(every)
    order = (SortKey("name", descending=True, nulls_first=True), SortKey("id"))
    plan = api.plan("shop.items", ["id"], limit=11, order=order)
    rows = [row for batch in api.read(plan) for row in batch.to_pylist()]
    expected = sorted(every, key=lambda row: sort_key(order, row))[:11]
    assert rows == [{"id": row["id"]} for row in expected]


WITHOUT_COLUMNS = [
    ({}, 90),
    ({"limit": 7}, 7),
    ({"limit": 1 << 40}, 90),
    ({"limit": 3, "filter": FILTERS[0]}, 3),
    ({"limit": 3, "where": "1 = 1"}, 3),
    ({"where": "1 = 1"}, 90),
    ({"where": "id < 50"}, 45),
    ({"limit": 7, "order": (SortKey("name"),)}, 7),
    ({"limit": 2000, "order": (SortKey("name"),)}, 90),
]


def test_rows_without_columns_are_counted(way, shop):
    api = way(shop.path)
    for options, rows in WITHOUT_COLUMNS:
        batches = list(api.read(api.plan("shop.items", [], **options)))
        assert sum(batch.num_rows for batch in batches) == rows, options
        assert {batch.num_columns for batch in batches} == {0}


def test_what_cannot_be_pushed(way, shop):
    api = way(shop.path)
    name, one = of("name"), literal("int", "1")
    unsupported = [
        {"filter": call("=", name, one)},
        {"filter": call("like", name, literal("string", "a%"))},
        {"filter": call("=", of("sold"), literal("timestamp", "0"))},
        {"filter": call("<", of("id"), literal("interval", "1"))},
        {"filter": call("=", one, one)},
        {"filter": name},
        {"filter": call("in", of("id"))},
        {"filter": call("=", call("+", of("id"), one), one)},
        {"aggregation": Aggregation((), (Aggregate("avg", of("id")),))},
        {"aggregation": Aggregation((), (Aggregate("sum", name),))},
        {"aggregation": Aggregation()},
        {"order": (SortKey("id"),)},
        {"order": (SortKey("id"),), "limit": 1 << 40},
    ]
    wrong = [
        {"filter": call("=", of("id"), literal("int", "one"))},
        {"filter": call("=", of("id"), literal("decimal", "Infinity"))},
        {"filter": call("=", of("id"), literal("bool", "1"))},
        {"aggregation": AGGREGATION, "limit": 1},
        {"aggregation": AGGREGATION, "columns": ["id"]},
        {"aggregation": AGGREGATION, "columns": []},
    ]
    missing = [
        {"filter": call("is null", of("nothing"))},
        {"aggregation": Aggregation(("nothing",))},
        {"order": (SortKey("nothing"),), "limit": 1},
    ]
    refused = (
        (UnsupportedError, unsupported),
        (OptionError, wrong),
        (ColumnNotFoundError, missing),
    )
    for kind, requests in refused:
        for request in requests:
            with pytest.raises(kind):
                api.plan("shop.items", **request)
    assert api.latches().latches == ()


@pytest.mark.parametrize("as_text", [False, True])
def test_presentation(way, shop, as_text):
    api = way(shop.path)
    presentation = Presentation("string", as_text)
    plan = api.plan("shop.items", presentation=presentation)
    table = api.describe("shop.items", presentation=presentation)
    batches = list(api.read(plan))
    assert {batch.schema for batch in batches} == {
        pa.ipc.read_schema(pa.py_buffer(table.arrow_schema))
    }
    assert {type(row["tags"]) for row in rows_of(batches)} == {str}


def test_dictionaries_are_the_same_rows(way, shop):
    api = way(shop.path)
    if isinstance(api._transport, FlightTransport):
        pytest.skip("Flight has no such choice")
    plan = api.plan("shop.items")
    with api.scan(plan.splits[0].ticket, dictionaries=True) as rows:
        table = rows.read_all()
    assert pa.types.is_dictionary(table.schema.field("name").type)
    assert not pa.types.is_dictionary(table.schema.field("id").type)
    assert sorted(table.to_pylist(), key=repr) == rows_of(api.read(plan))


def test_each_batch_may_be_taken_in_another_thread(way, shop):
    api = way(shop.path)
    rows = api.read(api.plan("shop.items"))
    taken = []
    while not taken or taken[-1] is not None:
        thread = threading.Thread(target=lambda: taken.append(next(rows, None)))
        thread.start()
        thread.join()
    assert len(taken) > 2
    assert rows_of(taken[:-1]) == plainly(shop.path, 300)


def test_a_snapshot_is_one_moment_for_all(way, shop):
    api = way(shop.path)
    snapshot = api.snapshot()
    shop.publish(400, {ITEMS: [(1, 310, None)]})
    moment = Moment(handle=snapshot.handle)
    assert api.tables(moment).snapshot_ts == snapshot.snapshot_ts == 300
    assert api.tables().snapshot_ts == 400
    plan = api.plan("shop.items", moment=moment)
    assert rows_of(api.read(plan)) == plainly(shop.path, 300)
    assert api.renew(snapshot).latch_id == snapshot.latch_id == plan.snapshot.latch_id
    assert [latch.id for latch in api.latches().latches if latch.id == snapshot.latch_id]
    api.release(snapshot)
    api.release(snapshot)
    with pytest.raises(LeaseExpiredError):
        api.renew(snapshot)
    with pytest.raises(LeaseExpiredError):
        list(api.read(plan))


def test_a_moment_is_a_tso_or_a_time(way, shop):
    api, now = way(shop.path), datetime(2026, 11, 21, 8, 5, 6, tzinfo=timezone.utc)
    shop.publish(parse_timestamp(now), {})
    for moment in (now, "2026-11-21T16:05:06+08:00", str(parse_timestamp(now))):
        assert api.tables(moment).snapshot_ts == parse_timestamp(now)
        assert api.describe("shop.items", moment).snapshot_ts == parse_timestamp(now)
        assert f"safe point {parse_timestamp(now)}" in api.collect_garbage(moment)
    for wrong in (now.replace(tzinfo=None), "2026-11-21 08:05:06", 1795248306000, 2**64 - 1):
        for ask in (api.tables, api.snapshot, api.pin, api.collect_garbage):
            with pytest.raises(OptionError):
                ask(wrong)


@pytest.mark.parametrize("field", ["snapshot_ts", "snapshotTs"])
def test_a_moment_in_json(field):
    def moment(text):
        return decode(TablesRequest, f'{{"moment": {{"{field}": {text}}}}}'.encode(), as_json=True)

    assert moment('"1970-01-01T00:00:00.001Z"') == moment('"262144"') == moment("262144")
    for wrong in ('"1970-01-01"', "1709164800000", str(2**64 - 1)):
        with pytest.raises(OptionError):
            moment(wrong)
    for wrong in ("1.5", "-1", "[]", f'1, "{field}": 1'):
        with pytest.raises(CodecError):
            moment(wrong)


def test_whether_it_would_be_answered(way, shop):
    """Without splits a plan is the same otherwise, and so are its errors."""
    api, planning = way(shop.path), method("PlanScan")
    request = PlanRequest(table="shop.items", columns=("id",))
    whole, without_splits = (
        api.call(planning, replace(request, no_splits=n)) for n in (False, True)
    )
    assert whole.splits
    assert not without_splits.splits
    assert without_splits.arrow_schema == whole.arrow_schema
    for plan in (whole, without_splits):
        api.release(plan.snapshot)
    with pytest.raises(ColumnNotFoundError):
        api.call(planning, replace(request, columns=("nothing",), no_splits=True))
    unknown = call("sounds like", of("id"))
    with pytest.raises(UnsupportedError):
        api.call(planning, replace(request, filter=unknown, no_splits=True))


def test_a_plan_survives_what_happens_to_its_files(way, shop):
    api = way(shop.path)
    plan = api.plan("shop.items", moment=Moment(200))
    before = rows_of(api.read(plan))
    assert "compacted" in api.compact()
    shop.publish(400, {ITEMS: [(n, 310, None) for n in range(100)]})
    assert "safe point 200" in api.collect_garbage(400)
    assert rows_of(api.read(plan)) == before == plainly(shop.path, 200)
    api.release(plan.snapshot)
    assert "safe point 400" in api.collect_garbage(400)
    with pytest.raises(SnapshotTooOldError):
        api.plan("shop.items", moment=Moment(200))


def test_files_that_went_with_their_latch_are_no_damage(shop):
    """The scan must be planned again, also if dictionaries of the files are read first."""
    with connect(shop.path) as api:
        plan = api.plan("shop.items", moment=Moment(300))
        shop.end_leases()
        shop.publish(400, {ITEMS: [(n, 310, None) for n in range(100)]})
        assert "compacted" in api.compact()
        for dictionaries in (True, False):
            with pytest.raises(LeaseExpiredError):
                list(api.read(plan, dictionaries=dictionaries))
        again = api.plan("shop.items", moment=Moment(300))
        assert rows_of(api.read(again, dictionaries=True)) == plainly(shop.path, 300)


def test_tickets_are_good_for_another_server(way, shop, tmp_path):
    api = way(shop.path)
    plan = api.plan("shop.items", ["id"], where="id > 10")
    expected = plainly(shop.path, 300, ["id"], where="id > 10")
    pushed = api.plan("shop.items", aggregation=AGGREGATION, filter=FILTERS[1])
    with connect(shop.path) as other:
        assert rows_of(other.read(pickle.loads(pickle.dumps(plan)))) == expected
        again = other.plan("shop.items", aggregation=AGGREGATION, filter=FILTERS[1])
        assert rows_of(other.read(pushed)) == rows_of(other.read(again)) != []


def test_forged_tickets(way, shop, tmp_path):
    api = way(shop.path)
    (split,) = api.plan("shop.items").splits
    snapshot = api.snapshot()
    bad = [b"", b"x", split.ticket[:-1], split.ticket + b"x", snapshot.handle]
    bad += [
        split.ticket[:n] + bytes([split.ticket[n] ^ 1]) + split.ticket[n + 1 :]
        for n in (0, 1, 9, -1)
    ]
    other = StoreBuilder(tmp_path / "other", ITEMS).publish(
        300, {ITEMS: [(1, 110, [1, "", None, 0])]}
    )
    with connect(other.path) as elsewhere:
        bad.append(elsewhere.plan("shop.items").splits[0].ticket)
    for ticket in bad:
        with pytest.raises(TicketError):
            api.scan(ticket).read_all()
        if ticket and ticket != snapshot.handle:
            with pytest.raises(TicketError):
                api.tables(Moment(handle=ticket))
    assert api.scan(split.ticket).read_all().num_rows == 90


def test_errors_are_the_same_everywhere(way, shop):
    api = way(shop.path)
    calls = {
        TableNotFoundError("shop.nothing", 300): lambda: api.plan("shop.nothing"),
        ColumnNotFoundError("shop.items", "x", ("id", "name", "sold", "tags")): lambda: api.plan(
            "shop.items", ["x"]
        ),
        NotCaughtUpError(300, 301): lambda: api.tables(Moment(301)),
        SnapshotTooOldError(1, 100): lambda: api.tables(Moment(1)),
        LatchNotFoundError("x"): lambda: api.remove_latch("x"),
    }
    for expected, attempt in calls.items():
        with pytest.raises(type(expected)) as caught:
            attempt()
        assert (caught.value.args, str(caught.value)) == (expected.args, str(expected))
    wrong = [
        lambda: api.plan("shop.items", where="id <"),
        lambda: api.snapshot(Moment(ttl_ms=1)),
        lambda: api.snapshot(Moment(ttl_ms=1 << 60)),
        lambda: api.snapshot(Moment(300, max_staleness_ms=1)),
        lambda: api.plan("shop.items", presentation=Presentation("nonsense")),
        lambda: api.set_interval(1),
    ]
    for attempt in wrong:
        with pytest.raises(OptionError):
            attempt()


def test_a_value_that_cannot_be_shown(way, tmp_path):
    dates = table_info(9, "shop.dates", [id_column(), column("d", MySQLType.DATE)])
    zero = parse_column(pa.array(["0000-00-00"]), dates.columns[1].type, "d")
    made = StoreBuilder(tmp_path / "dates", dates)
    made.publish(200, {dates: [(1, 110, [1, zero.cast(pa.int32())[0].as_py()])]})
    api = way(made.path)
    plan = api.plan("shop.dates")
    with pytest.raises(UnrepresentableValueError):
        list(api.read(plan))
    as_null = api.plan("shop.dates", presentation=Presentation("null"))
    assert rows_of(api.read(as_null)) == [{"id": 1, "d": None}]
    # A filter is evaluated on the returned values.
    early, missing = call("<", of("d"), literal("date", "0")), call("is null", of("d"))
    highest = Aggregation((), (Aggregate("max", of("d")),))
    for pushed in ({"filter": early}, {"filter": missing}, {"aggregation": highest}):
        with pytest.raises(UnrepresentableValueError):
            list(api.read(api.plan("shop.dates", **pushed)))
    for condition, rows in ((early, []), (missing, [{"id": 1, "d": None}])):
        plan = api.plan("shop.dates", presentation=Presentation("null"), filter=condition)
        assert rows_of(api.read(plan)) == rows
    zeros = call("starts with", of("d"), literal("string", "0000"))
    plan = api.plan("shop.dates", presentation=Presentation("string"), filter=zeros)
    assert rows_of(api.read(plan)) == [{"id": 1, "d": "0000-00-00"}]


def test_every_type_is_filtered_and_counted(way, tmp_path):
    made = StoreBuilder(tmp_path / "types", TABLE).publish(200, {TABLE: VERSIONS})
    api = way(made.path)
    for name in SHOWN:
        counting = Aggregation((name,), (Aggregate("count", of(name)), Aggregate("count")))
        nulls = call("is null", of(name))
        (batch,) = api.read(api.plan("d.every_type", ["id"], filter=call("not", nulls)))
        assert batch.to_pylist() == [{"id": 1}, {"id": 2}][: 1 + (NULLS[name] is not None)]
        if name == "vector":
            with pytest.raises(UnsupportedError):
                api.plan("d.every_type", aggregation=counting)
            continue
        rows = rows_of(api.read(api.plan("d.every_type", aggregation=counting, filter=nulls)))
        assert rows == ([{name: None, "a0": 0, "a1": 1}] if NULLS[name] is None else [])
        extremes = Aggregation((), (Aggregate("min", of(name)), Aggregate("max", of(name))))
        one = call("=", of("id"), literal("int", "1"))
        (low,) = rows_of(api.read(api.plan("d.every_type", aggregation=extremes, filter=one)))
        (row,) = rows_of(api.read(api.plan("d.every_type", [name], filter=one)))
        assert low == {"a0": row[name], "a1": row[name]}


def test_a_deadline(way, shop):
    api = way(shop.path)
    with pytest.raises((DeadlineExceededError, NotCaughtUpError)):
        api.snapshot(Moment(400, wait_ms=5_000), timeout_ms=100)
    with pytest.raises(NotCaughtUpError):
        api.snapshot(Moment(400, wait_ms=300))
    with pytest.raises(NotCaughtUpError):
        api.plan("shop.items", moment=Moment(max_staleness_ms=1000))
    with pytest.raises(OptionError):
        api.snapshot(Moment(wait_ms=300))
    with pytest.raises(DeadlineExceededError):
        api.scan(api.plan("shop.items").splits[0].ticket, timeout_ms=1).read_all()


def test_waiting_for_a_moment(way, shop):
    api = way(shop.path)
    later = threading.Timer(0.3, lambda: shop.publish(400))
    later.start()
    assert api.snapshot(Moment(400, wait_ms=60_000)).snapshot_ts == 400
    later.join()


def test_rows_that_nobody_takes(way, shop):
    api = way(shop.path)
    ticket = api.plan("shop.items").splits[0].ticket
    for _ in range(3):
        with api.scan(ticket) as rows:
            assert next(iter(rows)).num_rows
        api.scan(ticket).close()
        assert api.scan(ticket).read_all().num_rows == 90


def test_describing(way, shop):
    api = way(shop.path)
    assert [(t.name, t.columns, t.partitions) for t in api.tables().tables] == [
        ("shop.empty", 1, 1),
        ("shop.items", 4, 1),
    ]
    table = api.describe("shop.items")
    assert [(c.name, c.type, c.nullable, c.in_handle) for c in table.columns] == [
        ("id", "LONGLONG", False, True),
        ("name", "VARCHAR", True, False),
        ("sold", "DATE", True, False),
        ("tags", "SET", True, False),
    ]
    assert table.columns[1].comment == "what it is called"
    status = api.status()
    assert (status.resolved_ts, status.oldest_ts, status.writer) == (300, OLDEST_TS, None)


def test_administration(way, shop):
    api = way(shop.path)
    assert api.set_interval(50) == "polling every 50 ms"
    assert api.status().interval_ms == 50
    assert api.stop_writer() == "no writer is running"
    pin = api.pin(Moment(200, ttl_ms=60_000))
    (latch,) = api.latches().latches
    assert (latch.id, latch.kind, latch.snapshot_ts, latch.generation) == (
        pin.latch_id,
        "pin",
        200,
        None,
    )
    api.remove_latch(pin.latch_id)
    assert api.latches().latches == ()


def test_several_splits_at_once(way, shop):
    api = way(shop.path)
    if isinstance(api._transport, FlightTransport):
        pytest.skip("Flight has no such choice")
    api.flush()
    (whole,) = api.regions("shop.items").regions
    api.split_region(7, whole.region_id, "40")
    for wanted in ({}, {"limit": 3}, {"aggregation": Aggregation((), (Aggregate("count"),))}):
        plan = api.plan("shop.items", **wanted)
        first, second = (split.ticket for split in plan.splits)
        for dictionaries in (False, True):
            with api.scan(first, more=[second], dictionaries=dictionaries) as rows:
                content = rows.read_all().to_pylist()
            if not wanted:
                assert sorted(content, key=repr) == plainly(shop.path, 300)
            elif "limit" in wanted:
                assert len(content) == 3
            else:
                assert content == [{"a0": 90}]
        other = api.plan("shop.items", ["id"], **wanted) if not wanted else api.plan("shop.items")
        with pytest.raises(TicketError, match="from another plan"):
            api.scan(first, more=[other.splits[0].ticket]).read_all()


def test_a_table_that_is_dropped_later(way, shop):
    """Schema changes after `resolved_ts` have no effect yet."""
    later = table_info(7, "shop.renamed", [id_column()])
    events = [TableEvent(100, "shop", t.id, t) for t in (ITEMS, EMPTY)]
    events += [TableEvent(400, "shop", 7, later), TableEvent(500, "shop", 7, None)]
    identity = read_identity(shop.path, FS)
    with closing(registry.open_engine(shop.path, identity, FS, SystemClock())) as engine:
        history = SchemaHistory(100, 600, events, ())
        engine.publish(Publication((), ManifestChange(schema_records(history))))
    api = way(shop.path)
    assert [t.name for t in api.tables().tables] == ["shop.empty", "shop.items"]
    assert {r.physical_id for r in api.regions("shop.items").regions} == {7}
    wanted = AcquireRequest("write", LatchScope("shop.items"), name="mover")
    latch = api.acquire_latch(wanted)
    assert latch.scope.table_id == 7
    api.release_latch(latch)
    for name in ("shop.renamed", "shop.nothing"):
        with pytest.raises(TableNotFoundError, match=r"at timestamp 300 \("):
            api.regions(name)
        with pytest.raises(TableNotFoundError, match=r"at timestamp 300 \("):
            api.acquire_latch(replace(wanted, scope=LatchScope(name)))
    shop.publish(600)
    for ask in (
        api.regions,
        lambda name: api.acquire_latch(replace(wanted, scope=LatchScope(name))),
    ):
        with pytest.raises(TableNotFoundError, match=r"at timestamp 600 \("):
            ask("shop.items")


def test_a_region_is_purged(way, shop):
    api = way(shop.path)
    rows = plainly(shop.path, 300)
    kept = [row for row in rows if row["id"] >= 40]
    assert 0 < len(kept) < len(rows)
    api.flush()
    (whole,) = api.regions("shop.items").regions
    api.split_region(7, whole.region_id, "40")
    lower, _ = api.regions("shop.items").regions
    with pytest.raises(RegionNotFoundError):
        api.purge_region(7, whole.region_id)
    pin = api.pin(Moment(200, ttl_ms=60_000))
    with pytest.raises(LatchHeldError, match="pin"):
        api.purge_region(7, lower.region_id)
    assert rows_of(api.read(api.plan("shop.items"))) == rows
    api.remove_latch(pin.latch_id)
    planned = api.plan("shop.items")
    assert "purged 0 " not in api.purge_region(7, lower.region_id)
    assert api.purge_region(7, lower.region_id) == "purged 0 versions"
    assert rows_of(api.read(planned)) == rows
    for refused in (
        lambda: api.plan("shop.items"),
        lambda: api.plan("shop.items", moment=Moment(200)),
        lambda: api.plan("shop.items", where="id = 39"),
        lambda: api.plan("shop.items", limit=1),
        lambda: api.plan("shop.items", aggregation=Aggregation((), (Aggregate("count"),))),
        lambda: api.digest("shop.items"),
    ):
        with pytest.raises(PurgedRangeError, match=r"handles from the first to 40 were purged"):
            refused()
    assert rows_of(api.read(api.plan("shop.items", where="id >= 40"))) == kept
    # It stays so after a compaction, which changes the regions.
    api.compact()
    with pytest.raises(PurgedRangeError):
        api.plan("shop.items")
    assert api.purge_region(7, lower.region_id) == "purged 0 versions"
    assert rows_of(api.read(api.plan("shop.items", where="id >= 40"))) == kept
    assert cli(["fsck", str(shop.path)]) == 0


def test_regions_move_and_are_copied(way, shop, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    assert cli(["partitions", str(shop.path), "--add", str(disk)]) == 0
    api = way(shop.path)
    rows = plainly(shop.path, 300)
    api.flush()
    (whole,) = api.regions("shop.items").regions
    assert whole.partitions == (0,)
    assert "copied 1 files" in api.copy_region(7, whole.region_id, 1)
    assert "copied 0 files" in api.copy_region(7, whole.region_id, 1)
    assert [r.partitions for r in api.regions("shop.items").regions] == [(0, 1)]
    assert "moved 0 files" in api.move_region(7, whole.region_id, 1)
    assert [r.partitions for r in api.regions("shop.items").regions] == [(1,)]
    assert list(disk.rglob("*.parquet"))
    assert rows_of(api.read(api.plan("shop.items"))) == rows
    with pytest.raises(RegionNotFoundError):
        api.move_region(7, 99, 1)
    for partition in (2, 2**32 - 1):
        with pytest.raises(OptionError, match="no partition"):
            api.move_region(7, whole.region_id, partition)
    assert rows_of(api.read(api.plan("shop.items"))) == rows


def test_regions(way, shop):
    api = way(shop.path)
    rows = plainly(shop.path, 300)
    (whole,) = api.regions("shop.items").regions
    assert (whole.physical_id, whole.start, whole.end, whole.deltas) == (7, "", "", 2)
    assert "compacted" in api.flush()
    (whole,) = api.regions("shop.items").regions
    assert whole.deltas == 0
    plan = api.plan("shop.items", moment=Moment(300))
    assert "compacted" in api.split_region(7, whole.region_id, "40")
    assert "compacted 0" in api.split_region(7, whole.region_id, "40")
    lower, upper = api.regions("shop.items").regions
    assert (lower.end, upper.start) == ("40", "40")
    assert rows_of(api.read(plan)) == rows_of(api.read(api.plan("shop.items"))) == rows
    for refused in (
        lambda: api.split_region(7, whole.region_id, "41"),
        lambda: api.split_region(9, 1, "41"),
        lambda: api.merge_regions(7, whole.region_id, upper.region_id),
        lambda: api.merge_regions(9, 1, 2),
    ):
        with pytest.raises(RegionNotFoundError):
            refused()
    for at in ("40", "0x40", "x", "", "0xz", str(1 << 63)):
        with pytest.raises(OptionError):
            api.split_region(7, lower.region_id, at)
    with pytest.raises(OptionError):
        api.merge_regions(7, upper.region_id, lower.region_id)
    assert "compacted" in api.merge_regions(7, lower.region_id, upper.region_id)
    (whole,) = api.regions("shop.items").regions
    assert rows_of(api.read(api.plan("shop.items"))) == rows
    with pytest.raises(TableNotFoundError):
        api.regions("shop.nothing")
