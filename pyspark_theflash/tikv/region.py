"""Regions and their apply states, and the effect of raft admin commands on them.

    RaftRegion    id, range [start, end), epoch, peers     the same in all replicas; immutable
    ApplyState    applied_index, applied_term, truncated   progress of this replica
    RegionState   both, the peer, and the merge state      the state of this replica

Keys are memcomparable, as in TiKV's column families, without a timestamp; an empty `end` means no
upper bound. A region does not contain its rows: the rows of all regions are stored together (see
`cache`), so the cost of a split or merge does not depend on the size of the regions.

The functions implement admin commands as raftstore's `exec_prepare_merge`, `exec_rollback_merge`
and `exec_commit_merge` do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.cluster.key_range import EncodedKeyRange

RAFT_INIT_INDEX: Final = 5
"""The first index, and the first term, of the log of a region created by a split."""


class PeerState(Enum):
    """The state of a replica; the value is the number in the message."""

    NORMAL = 0
    APPLYING = 1
    TOMBSTONE = 2
    MERGING = 3
    UNAVAILABLE = 4


@dataclass(frozen=True, slots=True)
class Peer:
    """A replica of a region."""

    id: int
    store_id: int
    role: int = 0
    is_witness: bool = False


@dataclass(frozen=True, slots=True)
class RaftRegion:
    """A range of keys at one epoch."""

    id: RegionID
    start: bytes
    end: bytes
    epoch: RegionEpoch
    peers: tuple[Peer, ...] = ()

    @property
    def keys(self) -> EncodedKeyRange:
        """The range [start, end)."""
        return EncodedKeyRange(self.start, self.end)

    def peer_on(self, store_id: int) -> Peer | None:
        """Return the replica on a store; None if there is none."""
        return next((peer for peer in self.peers if peer.store_id == store_id), None)


@dataclass(frozen=True, slots=True)
class ApplyState:
    """The applied index of a replica, and the index up to which its log is truncated."""

    applied_index: int
    applied_term: int
    truncated_index: int = 0
    truncated_term: int = 0


@dataclass(frozen=True, slots=True)
class MergeState:
    """The state of a merge source: its log ends at `commit`, and `target` will absorb it."""

    min_index: int
    target: RaftRegion
    commit: int


@dataclass(frozen=True, slots=True)
class RegionState:
    """The state of this replica of a region. `peer` is this replica; None if it is unknown."""

    region: RaftRegion
    applied: ApplyState
    peer: Peer | None = None
    state: PeerState = PeerState.NORMAL
    merge: MergeState | None = None

    @property
    def id(self) -> RegionID:
        return self.region.id

    @property
    def is_readable(self) -> bool:
        """Whether the region has all of its data up to its applied index, and is not merging."""
        return self.state is PeerState.NORMAL


def child_of(parent: RegionState, region: RaftRegion) -> RegionState:
    """Return the state of a region created by a split of `parent`."""
    peer = region.peer_on(parent.peer.store_id) if parent.peer else None
    first = ApplyState(RAFT_INIT_INDEX, RAFT_INIT_INDEX, RAFT_INIT_INDEX, RAFT_INIT_INDEX)
    return RegionState(region, first, peer)


def prepare_merge(
    before: RegionState, min_index: int, target: RaftRegion, index: int
) -> RegionState:
    """Return the source of a merge after its PrepareMerge command at `index`."""
    epoch = before.region.epoch
    # raftstore increments both, so that a later change of peers fails the epoch check.
    region = replace(before.region, epoch=RegionEpoch(epoch.conf_ver + 1, epoch.version + 1))
    merge = MergeState(min_index, target, index)
    return replace(before, region=region, state=PeerState.MERGING, merge=merge)


def rollback_merge(before: RegionState) -> RegionState:
    """Return the source of a merge after its RollbackMerge command."""
    epoch = before.region.epoch
    region = replace(before.region, epoch=RegionEpoch(epoch.conf_ver, epoch.version + 1))
    return replace(before, region=region, state=PeerState.NORMAL, merge=None)


def commit_merge(target: RaftRegion, source: RaftRegion) -> RaftRegion | None:
    """Return the target of a merge with the source's range added; None if not adjacent."""
    version = max(target.epoch.version, source.epoch.version) + 1
    epoch = RegionEpoch(target.epoch.conf_ver, version)
    if target.end and target.end == source.start:
        return replace(target, end=source.end, epoch=epoch)
    if source.end and source.end == target.start:
        return replace(target, start=source.start, epoch=epoch)
    return None


def gap(regions: Iterable[RaftRegion], start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
    """Return the first subrange of [start, end) not covered by `regions`, in key order, if any."""
    covered_end = start
    for region in regions:
        if region.start > covered_end:
            return covered_end, min(region.start, end) if end else region.start
        if not region.end:
            return None
        covered_end = max(covered_end, region.end)
        if end and covered_end >= end:
            return None
    return covered_end, end
