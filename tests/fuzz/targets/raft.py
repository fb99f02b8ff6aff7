"""Messages from TiKV to a learner, and the learner's records."""

from dataclasses import replace
from pathlib import Path

from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.cluster.lock import decode_lock
from pyspark_theflash.cluster.write import decode_write
from pyspark_theflash.replication.apply.rows import by_table, version_batches
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tikv.pending import Delta, decode_delta, encode_delta
from pyspark_theflash.tikv.region import ApplyState, Peer, RaftRegion, RegionState, prepare_merge
from pyspark_theflash.tikv.region_snapshot import SnapshotBuilder
from pyspark_theflash.tikv.region_store import RegionStore
from pyspark_theflash.tikv.request import Family, sort_requests
from pyspark_theflash.tikv.wire import (
    decode_commands,
    decode_region_state,
    encode_region_state,
)
from tests.fuzz.mutate import bytes_like
from tests.fuzz.run import Target
from tests.support.kv_table import HISTORY, commit, key, locked
from tests.support.percolator_records import LockRecord
from tests.support.percolator_records import write_record as encode_write
from tests.support.raft_tikv import FakeRaftCluster, batch

LONG = "long" * 100
REGION = RaftRegion(RegionID(1), b"", b"\xff", RegionEpoch(2, 3), (Peer(11, 1), Peer(12, 77, 1)))
STATE = RegionState(REGION, ApplyState(5, 5, 5, 5), REGION.peers[1])


def lock_record(_: Path) -> Target:
    full = LockRecord(
        "P",
        b"primary",
        2**58,
        3000,
        b"row",
        2**58,
        7,
        2**58 + 1,
        [b"a", b"bc"],
        [1, 2],
        (3, 4),
        5,
        True,
        6,
    )
    shared = LockRecord("H", b"", 1, shared_by=[LockRecord("S", b"p", 2, for_update_ts=3)])
    seeds = [full.encode(), shared.encode(), LockRecord("D", b"", 1).encode()]
    return Target(seeds, bytes_like(seeds), lambda data: decode_lock(RawKey(b"k"), data))


def write_record(_: Path) -> Target:
    full = encode_write(
        "P",
        2**58,
        short_value=b"row",
        overlapped_rollback=True,
        gc_fence=7,
        last_change=(5, 6),
        source=8,
    )
    seeds = [full, encode_write("R", 1, short_value=b"p"), encode_write("L", 1)]
    return Target(seeds, bytes_like(seeds), decode_write)


def pending_record(_: Path) -> Target:
    seeds = [
        encode_delta(Family.LOCK, Delta({b"k1": b"v", b"key2": b""}, [b"gone", b""])),
        encode_delta(Family.DEFAULT, Delta({}, [])),
    ]
    return Target(seeds, bytes_like(seeds), decode_delta)


def region_state(_: Path) -> Target:
    merging = prepare_merge(STATE, 1, replace(REGION, id=RegionID(2)), 9)
    seeds = [encode_region_state(state) for state in (STATE, merging)]
    return Target(seeds, bytes_like(seeds), decode_region_state)


def command_batch(_: Path) -> Target:
    """All that is done with commands: parsed, applied, decoded to rows."""
    tikv = _tikv()
    entries = [entry for _, _, entry in tikv.log]
    seeds = [batch(entries), *(batch([entry]) for entry in entries)]
    tables = PhysicalTables(HISTORY)

    def parse(data: bytes) -> None:
        store = RegionStore()
        store.install(STATE, ())
        commands = decode_commands(data)
        if store.apply(commands) < len(commands):
            for command in commands:
                sort_requests(command.requests)
        for physical_id, versions in by_table(store.unflushed(), tables):
            list(version_batches(physical_id, versions, tables))
        store.freeze()

    return Target(seeds, bytes_like(seeds), parse)


def snapshot(_: Path) -> Target:
    """A chunk behind a head that is right."""
    tikv = _tikv()
    head, *chunks = tikv.snapshot(next(iter(tikv.regions.values())))
    seeds = [head, *chunks]

    def parse(data: bytes) -> None:
        builder = SnapshotBuilder()
        builder.add(head)
        builder.add(data)
        builder.finish()

    return Target(chunks, bytes_like(seeds), parse)


def _tikv() -> FakeRaftCluster:
    tikv = FakeRaftCluster()
    commit(tikv, 1, 10, "a")
    commit(tikv, 2, 12, LONG)
    tikv.write(locked(3, 20, "c"))
    tikv.write(locked(4, 20, LONG, primary=3))
    tikv.split([key(3)])
    left, right = sorted(tikv.regions.values(), key=lambda r: r.start)
    tikv.merge(right, left)
    tikv.delete_range(key(7), key(8))
    return tikv
