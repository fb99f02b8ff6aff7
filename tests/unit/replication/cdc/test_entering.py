"""Tables that enter a store with rows: they are loaded at one timestamp, then followed."""

import random
from dataclasses import replace
from typing import Any

import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    GCBarrierLostError,
    PurgedError,
    SnapshotTooOldError,
    TableNotFoundError,
    TableNotReplicatedError,
    TableSetAsideError,
    UnsupportedError,
)
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.load.scan import record_keys
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.store.aside import Aside
from pyspark_theflash.storage.store.load import LOAD_KIND
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.purged import PURGED_KIND, purged_record
from pyspark_theflash.storage.store.scope import SCOPE_KIND, TableScope
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.support.change_log import ChangeLog
from tests.support.change_store import ChangeStore, LogLoader
from tests.unit.replication.cdc.test_writer import (
    HALVES,
    event,
    key,
    partitioned,
    row,
    table,
)

T, OTHER = table(1, "d.t"), table(2, "other.u")
SCOPE = TableScope(("d.*",))


@pytest.fixture
def stores(stores: Any, log: ChangeLog) -> Any:
    options = {"assume_empty": ["d.t"], "scope": SCOPE}
    return lambda *events: stores(*events, **options, loader=LogLoader(log))


def gone(ts: int, info: TableInfo) -> TableEvent:
    return TableEvent(TimeStamp(ts), info.db, info.id, None)


def fill(log: ChangeLog, physical_id: int, ts: int, handles: range) -> list[tuple[int, int]]:
    """Write rows, one commit each; return them."""
    for number, handle in enumerate(handles):
        log.write(ts + number, key(physical_id, handle), row(c2=handle * 10))
    return [(handle, handle * 10) for handle in handles]


def test_an_added_table_is_readable_from_its_load_on(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T), event(100, OTHER))
    before = fill(log, 2, 110, range(1, 9))
    log.write(150, key(1, 7), row(c2=1))
    store.reach(200)
    with pytest.raises(TableNotReplicatedError):
        store.rows("other.u", 200)
    store.writer.add(["other.*"], TimeStamp(300))
    log.write(250, key(2, 3), row(c2=5))
    log.write(310, key(2, 3), None)
    log.write(320, key(2, 20), row(c2=7))
    store.reach(400)
    after = sorted({**dict(before), 3: 5}.items())
    for ts in (200, 250, 299):
        with pytest.raises(SnapshotTooOldError, match=r"other\.u") as error:
            store.rows("other.u", ts)
        assert error.value.oldest == 300
    assert store.rows("other.u", 300) == after
    assert store.rows("other.u", 319) == [each for each in after if each[0] != 3]
    assert (20, 7) in store.rows("other.u", 320)
    assert store.rows("d.t", 200) == store.rows("d.t", 400) == [(7, 1)]
    assert not store.engine.read([LOAD_KIND]).of_kind(LOAD_KIND)
    assert store.writer.report.loading is None
    (reader,) = store.loader.opened
    assert reader.is_closed
    assert store.loader.confirmed == [299]


def test_purged_tables_are_read_once_for_all_pending_changes_of_the_schema(
    stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = [event(200 + n, table(50 + n, f"d.n{n}")) for n in range(20)]
    store = stores(event(100, T), *created)
    reads: list[Any] = []
    read = store.engine.read

    def counted(kinds: Any = ()) -> Any:
        reads.append(kinds)
        return read(kinds)

    monkeypatch.setattr(store.engine, "read", counted)
    events = [event(100, T), *created]
    tables = PhysicalTables(SchemaHistory(TimeStamp(100), TimeStamp(900), events, ()))
    assert store.writer._entering.next_ts(tables, TimeStamp(150)) is None
    assert len(reads) == 1


def test_nothing_of_a_load_is_readable_before_its_end(stores: Any, log: ChangeLog) -> None:
    """A writer is killed after each poll: it continues, and readers see all tables or none."""
    store = stores(event(100, T), event(100, OTHER), event(100, table(3, "other.v")))
    rows = fill(log, 2, 110, range(1, 9))
    log.write(130, key(3, 1), row(c2=1))
    store.reach(200)
    store.writer.add(["other.*"], TimeStamp(300))
    log.write(310, key(2, 30), row(c2=30))
    log.resolved_ts = 400
    kills, published = 0, 0
    while store.writer.resolved_ts < 400:
        store.writer.poll()
        published += store.writer.resolved_ts == 299
        if store.writer.resolved_ts < 300:
            for name in ("other.u", "other.v"):
                with pytest.raises(TableNotReplicatedError):
                    store.rows(name, store.writer.resolved_ts)
        store.kill()
        store.start()
        kills += 1
    assert kills < 1000
    assert published >= 2
    assert store.rows("other.u", 300) == rows
    assert store.rows("other.u", 400) == [*rows, (30, 30)]
    assert store.rows("other.v", 400) == [(1, 1)]


def test_an_added_pattern_is_remembered(stores: Any, log: ChangeLog) -> None:
    new, dropped = table(4, "other.new"), table(5, "other.old")
    store = stores(event(100, T), event(120, dropped), gone(150, dropped), event(500, new))
    log.write(130, key(5, 1), row(c2=1))
    store.reach(200)
    store.writer.add(["other.*"], TimeStamp(300))
    store.reach(400)
    store.kill()
    store.start()
    store.writer.add(["other.*"], TimeStamp(450))
    log.write(510, key(4, 1), row(c2=2))
    store.reach(600)
    assert store.rows("other.new", 600) == [(1, 2)]
    with pytest.raises(TableNotReplicatedError):
        store.rows("other.old", 140)
    scope = TableScope.of(store.engine.read([SCOPE_KIND]))
    assert scope == replace(SCOPE, added=(("other.*", TimeStamp(300)),))
    assert store.loader.opened == []


def test_a_table_that_was_set_aside_is_loaded_again(stores: Any, log: ChangeLog) -> None:
    """Rows that were deleted, or only imported, are those of TiKV from the load on."""
    store = stores(event(100, T))
    fill(log, 1, 110, range(1, 9))
    store.reach(200)
    aside = Aside(1, TimeStamp(210), "d.t", "imported").to_record()
    store.engine.publish(Publication((), ManifestChange([aside])))
    store.kill()
    store.start()
    for handle in (2, 7):
        log.changes = [c for c in log.changes if c.key != key(1, handle)]
    log.write(220, key(1, 9), row(c2=90))
    store.reach(230)
    with pytest.raises(TableSetAsideError):
        store.rows("d.t", 220)
    store.writer.add(["d.t"], TimeStamp(300))
    log.write(350, key(1, 1), None)
    store.reach(400)
    handles = [1, 3, 4, 5, 6, 8, 9]
    assert len(store.rows("d.t", 200)) == 8
    with pytest.raises(SnapshotTooOldError):
        store.rows("d.t", 250)
    assert [handle for handle, _ in store.rows("d.t", 300)] == handles
    assert [handle for handle, _ in store.rows("d.t", 400)] == handles[1:]
    store.writer.add(["d.t", "d.*"], TimeStamp(450))
    assert not store.engine.read([LOAD_KIND]).of_kind(LOAD_KIND)
    assert TableScope.of(store.engine.read([SCOPE_KIND])) == SCOPE
    assert list(store.engine.check(store.engine.read([]))) == []


def test_a_table_that_is_renamed_into_the_scope(stores: Any, log: ChangeLog) -> None:
    inside = table(2, "d.u")
    store = stores(event(100, T), event(100, OTHER), gone(300, OTHER), event(300, inside))
    rows = fill(log, 2, 110, range(1, 9))
    log.write(310, key(2, 1), row(c2=7))
    store.reach(400)
    assert store.rows("d.u", 300) == rows
    assert store.rows("d.u", 310) == [(1, 7), *rows[1:]]
    with pytest.raises(TableNotFoundError):
        store.rows("d.u", 299)
    with pytest.raises(SnapshotTooOldError):
        store.rows("other.u", 299)


def exchanged(*ids: int) -> TableInfo:
    """A table with two partitions."""
    return partitioned(*({**half, "id": id} for half, id in zip(HALVES, ids, strict=True)))


def test_a_partition_that_is_exchanged_with_a_table_outside(stores: Any, log: ChangeLog) -> None:
    """And back: what the store has of the first partition is from before."""
    parts, outside = exchanged(12, 13), table(2, "other.u")
    swapped, other = exchanged(2, 13), table(12, "other.u")
    events = [event(100, parts), event(100, outside)]
    events += [event(300, swapped), gone(300, outside), event(300, other)]
    events += [event(500, parts), gone(500, other), event(500, outside)]
    store = stores(*events)
    first = fill(log, 12, 110, range(1, 5))
    last = fill(log, 13, 120, range(10, 12))
    rows = fill(log, 2, 130, range(1, 9))
    log.write(310, key(2, 2), None)  # followed
    log.write(320, key(12, 1), None)  # not followed, and the next two
    log.write(330, key(12, 2), row(c2=77))
    log.write(340, key(12, 9), row(c2=90))
    log.write(510, key(12, 3), None)
    log.write(520, key(2, 3), None)
    store.reach(600)
    assert store.rows("d.t", 299) == first + last
    assert store.rows("d.t", 300) == rows + last
    assert store.rows("d.t", 499) == [rows[0], *rows[2:], *last]
    assert store.rows("d.t", 500) == [(2, 77), *first[2:], (9, 90), *last]
    assert store.rows("d.t", 510) == [(2, 77), first[3], (9, 90), *last]
    assert list(store.engine.check(store.engine.read([]))) == []


@pytest.mark.parametrize("seed", range(4))
def test_kills_and_entries(seed: int, stores: Any, log: ChangeLog) -> None:
    rng = random.Random(seed)
    parts, outside = exchanged(12, 13), table(2, "other.u")
    swapped, other = exchanged(2, 13), table(12, "other.u")
    events = [event(100, parts), event(100, outside), event(100, table(4, "other.added"))]
    events += [event(300, swapped), gone(300, outside), event(300, other)]
    events += [event(500, parts), gone(500, other), event(500, outside)]
    store, rows, truth = stores(*events), dict[tuple[int, int], int](), {}
    for ts in range(101, 700):
        if ts not in (300, 500):
            at = rng.choice((2, 4, 12, 13)), rng.randrange(12)
            rows.pop(at, None)
            if is_put := rng.random() < 0.7:
                rows[at] = ts
            log.write(ts, key(*at), row(c2=ts) if is_put else None)
        ids = (2, 13) if 300 <= ts < 500 else (12, 13)
        truth[ts] = (
            sorted((handle, v) for (i, handle), v in rows.items() if i in ids),
            sorted((handle, v) for (i, handle), v in rows.items() if i == 4),
        )
        if ts == 400:
            store.writer.add(["other.added"], TimeStamp(401))
        if rng.random() < 0.3:
            store.writer.poll()
        if rng.random() < 0.1:
            store.kill()
            store.start()
    store.reach(699)
    for ts in range(101, 700, 7):
        assert store.rows("d.t", ts) == truth[ts][0], ts
        if ts >= 401:
            assert store.rows("other.added", ts) == truth[ts][1], ts


def test_a_restored_table_is_loaded(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T), event(200, table(2, "d.old")))
    rows = fill(log, 2, 50, range(1, 4))
    store.reach(150)
    store.schema.restored.append(TimeStamp(200))
    log.write(210, key(2, 8), row(c2=1))
    store.reach(300)
    assert store.rows("d.old", 200) == rows
    assert store.rows("d.old", 300) == [*rows, (8, 1)]


@pytest.mark.parametrize("error", [UnsupportedError("a type", "other.u.c"), CodecError("row", "?")])
def test_a_table_that_cannot_be_decoded_is_set_aside(
    error: Exception, stores: Any, log: ChangeLog
) -> None:
    store = stores(event(100, T), event(100, OTHER))
    fill(log, 2, 110, range(1, 9))
    store.reach(200)
    store.loader.error = error
    store.writer.add(["other.u"], TimeStamp(300))
    log.write(310, key(1, 1), row(c2=1))
    store.reach(400)
    assert store.rows("d.t", 400) == [(1, 1)]
    with pytest.raises(TableSetAsideError, match=str(error).replace("?", ".")):
        store.rows("other.u", 400)
    store.loader.error = None
    store.writer.add(["other.u"], TimeStamp(500))
    store.reach(600)
    assert len(store.rows("other.u", 600)) == 8
    with pytest.raises(SnapshotTooOldError):
        store.rows("other.u", 400)


def lose_barrier(store: ChangeStore, safe_point: int) -> None:
    """Let TiKV collect versions below a safe point during a load."""

    def lost(ts: TimeStamp) -> None:
        raise GCBarrierLostError("theflash-1", ts, safe_point)

    store.loader.confirm = lost


def test_a_table_whose_barrier_is_lost_is_set_aside(stores: Any, log: ChangeLog) -> None:
    """The others continue: the feed has passed the safe point."""
    store = stores(event(100, T), event(100, OTHER))
    rows = fill(log, 2, 110, range(1, 9))
    store.reach(200)
    store.writer.add(["other.u"], TimeStamp(300))
    log.write(250, key(1, 1), row(c2=1))
    log.write(310, key(1, 2), row(c2=2))
    log.write(320, key(2, 1), row(c2=7))
    log.write(360, key(2, 2), row(c2=8))
    lose_barrier(store, 350)
    log.resolved_ts = 400
    while store.writer.resolved_ts < 300:
        assert store.writer.needed_ts == store.writer.checkpoint_ts or store.writer.report.loading
        store.writer.poll()
    for _ in range(20):
        store.writer.receive()
    assert store.writer.checkpoint_ts == 300
    assert store.writer.needed_ts > 350
    store.reach(400)
    assert store.writer.needed_ts == store.writer.checkpoint_ts
    assert (record_keys(PhysicalTableID(2)), 350) in store.feed.subscribed
    assert store.rows("d.t", 400) == [(1, 1), (2, 2)]
    with pytest.raises(TableSetAsideError, match="garbage collection reached 350"):
        store.rows("other.u", 400)
    store.loader = store.loader.__class__(log)
    store.kill()
    store.options["loader"] = store.loader
    store.start()
    store.writer.add(["other.u"], TimeStamp(450))
    store.reach(500)
    assert store.rows("other.u", 450) == [(1, 7), (2, 8), *rows[2:]]


def test_a_table_that_is_created_meanwhile_ends_the_writer(stores: Any, log: ChangeLog) -> None:
    """Its changes are subscribed when the load has ended, below the safe point."""
    store = stores(event(100, T), event(100, OTHER), event(330, table(5, "d.new")))
    fill(log, 2, 110, range(1, 9))
    store.reach(200)
    store.writer.add(["other.u"], TimeStamp(300))
    lose_barrier(store, 350)
    with pytest.raises(GCBarrierLostError):
        store.reach(400)
    assert store.writer.resolved_ts == 300


def purge(store: ChangeStore, physical_id: int, safe_point: int) -> None:
    """Remove a dropped table, as garbage collection does."""
    record = purged_record(PhysicalTableID(physical_id), TimeStamp(safe_point))
    store.engine.publish(Publication((), ManifestChange([record])))
    store.engine.purge([PhysicalTableID(physical_id)])


def dropped_and_restored(stores: Any, log: ChangeLog) -> tuple[ChangeStore, list[tuple[int, int]]]:
    """A store whose table 2 is dropped at 200 and restored at 300."""
    old = table(2, "d.old")
    store = stores(event(100, T), event(120, old), gone(200, old), event(300, old))
    rows = fill(log, 2, 130, range(1, 9))
    store.reach(250)
    return store, rows


@pytest.mark.parametrize("is_purged", [False, True])
def test_a_restored_table_whose_rows_were_removed_is_loaded(
    is_purged: bool, stores: Any, log: ChangeLog
) -> None:
    store, rows = dropped_and_restored(stores, log)
    if is_purged:
        purge(store, 2, 240)
    log.write(310, key(2, 8), row(c2=1))
    store.schema.restored.append(TimeStamp(300))
    store.reach(400)
    assert store.rows("d.old", 300) == rows
    assert store.rows("d.old", 400) == [*rows[:7], (8, 1)]
    assert len(store.loader.opened) == is_purged
    assert not store.engine.read([PURGED_KIND]).of_kind(PURGED_KIND)


def test_a_removed_table_that_was_restored_before_is_added(stores: Any, log: ChangeLog) -> None:
    store, rows = dropped_and_restored(stores, log)
    store.reach(350)
    purge(store, 2, 240)
    with pytest.raises(PurgedError):
        store.rows("d.old", 350)
    store.writer.add(["d.old"], TimeStamp(360))
    log.write(370, key(2, 8), None)
    store.reach(400)
    assert store.rows("d.old", 360) == rows
    assert store.rows("d.old", 400) == rows[:7]
    with pytest.raises(SnapshotTooOldError):
        store.rows("d.old", 350)
