"""Latches requested over every way to a store: the same grants, waits and refusals."""

import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    DeadlineExceededError,
    LatchHeldError,
    LatchLostError,
    LatchOrderError,
    LeaseExpiredError,
    OptionError,
    RegionNotFoundError,
    RoleError,
    SnapshotTooOldError,
    TableNotFoundError,
    TicketError,
)
from pyspark_theflash.service.wire.message import AcquireRequest, LatchScope, Moment
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.ways import WAYS, Way, marked

CLOCK = SystemClock()
ITEMS = table_info(7, "shop.items", [id_column()])
OTHER = table_info(8, "shop.other", [id_column()])
WITH_TOKENS = ("tcp, tls and token", "flight", "grpc")
WRITE = AcquireRequest("write", LatchScope("shop.items"), ttl_ms=60_000, name="loader")


@pytest.fixture
def store(tmp_path):
    made = StoreBuilder(tmp_path / "store", ITEMS, OTHER)
    return made.publish(300, {ITEMS: [(n, 110, [n]) for n in range(10)]})


@pytest.fixture(params=marked(WAYS))
def way(request, tmp_path):
    with ExitStack() as undo:
        yield Way(request.param, tmp_path, undo)


def test_a_latch_is_its_callers_for_its_time(way, store):
    api, other = way.open(store.path), way.open(store.path)
    latch = api.acquire_latch(WRITE)
    assert (latch.kind, latch.scope.table_id, latch.name) == ("write", 7, "loader")
    assert 0 < latch.expires_in_ms <= 60_000
    assert latch.identity
    (listed,) = other.latches().latches
    assert replace(listed, expires_in_ms=0) == replace(latch, expires_in_ms=0, handle=b"")
    with pytest.raises(LatchHeldError, match="loader"):
        other.acquire_latch(replace(WRITE, name="another"))
    with pytest.raises(LatchHeldError):
        other.acquire_latch(AcquireRequest("write", name="another"))
    api.close()
    assert other.renew_latch(latch).token == latch.token
    other.release_latch(latch)
    for act in (other.renew_latch, other.release_latch):
        with pytest.raises(LatchLostError):
            act(latch)
    again = other.acquire_latch(replace(WRITE, name="another"))
    assert again.token > latch.token
    with pytest.raises(LatchLostError):
        other.renew_latch(replace(again, token=latch.token))
    other.remove_latch(again.id)
    with pytest.raises(LatchLostError):
        other.renew_latch(again)


def test_waiting_in_turn(way, store):
    api = way.open(store.path)
    first, order = api.acquire_latch(WRITE), []

    def wait(name):
        waiter = way.open(store.path)
        latch = waiter.acquire_latch(replace(WRITE, name=name, wait_ms=20_000))
        order.append((name, latch.token))
        waiter.release_latch(latch)

    threads = []
    for name in ("b", "c"):
        threads.append(threading.Thread(target=wait, args=(name,)))
        threads[-1].start()
        while name not in [waiting.name for waiting in api.latches().waiting]:
            CLOCK.sleep_ms(5)
    assert [waiting.name for waiting in api.latches().waiting] == ["b", "c"]
    api.acquire_latch(AcquireRequest("read", LatchScope("shop.items")))
    api.acquire_latch(replace(WRITE, scope=LatchScope("shop.other"), name="d"))
    api.release_latch(first)
    for thread in threads:
        thread.join()
    assert [name for name, _ in order] == ["b", "c"]
    assert order[0][1] < order[1][1]


def test_waits_and_calls_end(way, store):
    api = way.open(store.path)
    api.acquire_latch(WRITE)
    begin = CLOCK.boottime_ms()
    with pytest.raises(LatchHeldError):
        api.acquire_latch(replace(WRITE, name="b", wait_ms=200))
    with pytest.raises((DeadlineExceededError, LatchHeldError)):
        api.acquire_latch(replace(WRITE, name="b", wait_ms=60_000), timeout_ms=200)
    assert CLOCK.boottime_ms() - begin < 50_000
    deadline_ms = CLOCK.boottime_ms() + 60_000
    while api.latches().waiting:
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(10)


def test_no_deadlock(way, store):
    api = way.open(store.path)
    api.acquire_latch(replace(WRITE, scope=LatchScope("shop.other")))
    api.acquire_latch(replace(WRITE, name="b"))
    with pytest.raises(LatchOrderError):
        api.acquire_latch(replace(WRITE, wait_ms=10_000))


def test_admin_latches(way, store):
    api = way.open(store.path)
    looks = AcquireRequest("admin", LatchScope("shop.items"), name="backup")
    mutates = replace(looks, mutates=True, name="mover")
    api.acquire_latch(WRITE)
    api.acquire_latch(looks)
    with pytest.raises(LatchHeldError):
        api.acquire_latch(mutates)
    api.acquire_latch(replace(mutates, scope=LatchScope("shop.other")))


def test_a_read_latch_keeps_its_moment(way, store):
    api = way.open(store.path)
    latch = api.acquire_latch(AcquireRequest("read", moment=Moment(200), ttl_ms=60_000))
    assert (latch.kind, latch.snapshot_ts) == ("read", 200)
    assert "safe point 200" in api.collect_garbage(300)
    assert api.tables(Moment(handle=latch.handle)).snapshot_ts == 200
    api.renew_latch(latch)
    api.release_latch(latch)
    with pytest.raises(LeaseExpiredError):
        api.tables(Moment(handle=latch.handle))
    assert "safe point 300" in api.collect_garbage(300)
    with pytest.raises(SnapshotTooOldError):
        api.acquire_latch(AcquireRequest("read", moment=Moment(200)))


def test_what_makes_no_sense(way, store):
    api = way.open(store.path)
    wrong = [
        AcquireRequest(),
        AcquireRequest("pin", name="a"),
        AcquireRequest("write"),
        AcquireRequest("write", name="x" * 101),
        AcquireRequest("write", name="a\n"),
        AcquireRequest("write", name="a", mutates=True),
        AcquireRequest("write", name="a", moment=Moment(200)),
        AcquireRequest("write", name="a", ttl_ms=1),
        AcquireRequest("write", LatchScope(physical_id=7), name="a"),
        AcquireRequest("write", LatchScope("shop.items", region_id=1), name="a"),
        AcquireRequest("write", LatchScope("shop.items", 7), name="a"),
        AcquireRequest("write", LatchScope("shop.items", physical_id=9), name="a"),
    ]
    for request in wrong:
        with pytest.raises(OptionError):
            api.acquire_latch(request)
    with pytest.raises(TableNotFoundError):
        api.acquire_latch(replace(WRITE, scope=LatchScope("shop.nothing")))
    with pytest.raises(RegionNotFoundError):
        api.acquire_latch(replace(WRITE, scope=LatchScope("shop.items", 0, 7, 9)))
    region = api.acquire_latch(replace(WRITE, scope=LatchScope("", 7, 7, 1)))
    with pytest.raises(LatchHeldError):
        api.acquire_latch(replace(WRITE, name="b"))
    api.release_latch(region)


@pytest.mark.parametrize("way", WITH_TOKENS, indirect=True)
def test_roles(way, store):
    """Each kind of latch needs the role of the operation that it protects."""
    by_role = {role: way.open(store.path, role) for role in Role}
    needed = {"read": Role.READ, "write": Role.WRITE, "admin": Role.ADMIN}
    for kind, least in needed.items():
        request = AcquireRequest(kind, LatchScope("shop.other"), name="somebody")
        for role, api in by_role.items():
            if role < least:
                with pytest.raises(RoleError, match=kind):
                    api.acquire_latch(request)
        latch = by_role[least].acquire_latch(request)
        for role, api in by_role.items():
            if role < least:
                with pytest.raises((RoleError, LatchLostError)):
                    api.renew_latch(latch)
        by_role[least].release_latch(latch)


@pytest.mark.parametrize("way", WITH_TOKENS, indirect=True)
def test_a_latch_is_its_identitys(way, store):
    """Another caller's latch, snapshot or pin fails like one that does not exist."""
    admin, writer, reader = (way.open(store.path, role) for role in sorted(Role, reverse=True))
    latch = writer.acquire_latch(replace(WRITE, scope=LatchScope()))
    read = writer.acquire_latch(AcquireRequest("read"))
    snapshots = [writer.snapshot(), admin.pin(Moment(ttl_ms=60_000))]
    unknown = replace(latch, id="0" * 32)
    texts = set()
    for one in (latch, read, unknown):
        for act in (admin.renew_latch, reader.release_latch, admin.release_latch):
            with pytest.raises(LatchLostError) as caught:
                act(replace(one, token=latch.token))
            texts.add(str(caught.value).replace(one.id, "ID"))
    assert len(texts) == 1
    for handle in (read.handle, *(each.handle for each in snapshots)):
        with pytest.raises(TicketError, match="not issued by this store to this caller"):
            reader.tables(Moment(handle=handle))
        for act in (reader.renew, reader.release):
            with pytest.raises(TicketError):
                act(replace(snapshots[0], handle=handle))
    assert {x.identity for x in admin.latches().latches} == {latch.identity, admin_of(admin)}
    for act in (writer.renew_latch, writer.release_latch):
        act(latch)
        act(read)
    writer.release(snapshots[0])


def admin_of(api):
    latch = api.acquire_latch(AcquireRequest("read"))
    api.release_latch(latch)
    return latch.identity


@pytest.mark.parametrize("way", WITH_TOKENS, indirect=True)
def test_a_name_is_its_tokens(way, store):
    """Callers with the same name and different tokens are different callers."""
    one, two = way.open(store.path, Role.WRITE), way.open(store.path, Role.ADMIN)
    first = one.acquire_latch(WRITE)
    with pytest.raises(LatchHeldError) as caught:
        two.acquire_latch(WRITE)
    assert "same caller" not in str(caught.value)
    one.release_latch(first)
    assert two.acquire_latch(WRITE).identity != first.identity
