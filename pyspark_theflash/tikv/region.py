"""Regions: ranges of keys that TiKV replicates together, and how far each has been applied.

    Region        id, range [start, end), epoch, peers     what everybody agrees on; immutable
    ApplyState    applied_index, applied_term, truncated   how far this replica is
    RegionState   both, and whether it is merging          what a store keeps of a region

Keys here are memcomparable, as in TiKV's column families, without a timestamp; an empty `end` is
behind every key. A region's rows are not in it: a store keeps those of all regions together (see
`cache`), so a split or a merge moves no row, and costs the same however large the regions are.

The functions are what the admin commands of raft do to regions, as in raftstore's
`exec_prepare_merge`, `exec_rollback_merge` and `exec_commit_merge`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from pyspark_theflash.base.types import RegionEpoch, RegionID

RAFT_INIT_INDEX: Final = 5
"""Where the log of a region begins that a split has made; its term likewise."""


class PeerState(Enum):
    """The state of a replica; the value is the number on the wire."""

    NORMAL = 0
    APPLYING = 1
    TOMBSTONE = 2
    MERGING = 3
    UNAVAILABLE = 4


@dataclass(frozen=True, slots=True)
class Peer:
    """One replica of a region."""

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

    def contains(self, key: bytes) -> bool:
        """Whether a key is in the region."""
        return self.start <= key and (not self.end or key < self.end)

    def peer_on(self, store_id: int) -> Peer | None:
        """The replica that a store has of it."""
        return next((peer for peer in self.peers if peer.store_id == store_id), None)


@dataclass(frozen=True, slots=True)
class ApplyState:
    """How far a replica has applied its log, and from where on the log still exists."""

    applied_index: int
    applied_term: int
    truncated_index: int = 0
    truncated_term: int = 0


@dataclass(frozen=True, slots=True)
class MergeState:
    """A region is about to become part of `target`; its log ends at `commit`."""

    min_index: int
    target: RaftRegion
    commit: int


@dataclass(frozen=True, slots=True)
class RegionState:
    """A region as a store keeps it. `peer` is the store's own; None where it is not known."""

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
        """Whether its keys are complete up to its applied index, and stay its own."""
        return self.state is PeerState.NORMAL


def child_of(parent: RegionState, region: RaftRegion) -> RegionState:
    """A region that a split of `parent` has made."""
    peer = region.peer_on(parent.peer.store_id) if parent.peer else None
    first = ApplyState(RAFT_INIT_INDEX, RAFT_INIT_INDEX, RAFT_INIT_INDEX, RAFT_INIT_INDEX)
    return RegionState(region, first, peer)


def prepare_merge(
    before: RegionState, min_index: int, target: RaftRegion, index: int
) -> RegionState:
    """The source of a merge from its prepare command at `index` on."""
    epoch = before.region.epoch
    # A change of peers is not allowed from here on, and would be refused by this version, too.
    region = replace(before.region, epoch=RegionEpoch(epoch.conf_ver + 1, epoch.version + 1))
    merge = MergeState(min_index, target, index)
    return replace(before, region=region, state=PeerState.MERGING, merge=merge)


def rollback_merge(before: RegionState) -> RegionState:
    """The source of a merge that came to nothing."""
    epoch = before.region.epoch
    region = replace(before.region, epoch=RegionEpoch(epoch.conf_ver, epoch.version + 1))
    return replace(before, region=region, state=PeerState.NORMAL, merge=None)


def commit_merge(target: RaftRegion, source: RaftRegion) -> RaftRegion | None:
    """The target of a merge with the source's range; None where they are no neighbours."""
    version = max(target.epoch.version, source.epoch.version) + 1
    epoch = RegionEpoch(target.epoch.conf_ver, version)
    if target.end and target.end == source.start:
        return replace(target, end=source.end, epoch=epoch)
    if source.end and source.end == target.start:
        return replace(target, start=source.start, epoch=epoch)
    return None


def gap(regions: Iterable[RaftRegion], start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
    """The first part of [start, end) that none of `regions`, in key order, covers."""
    reached = start
    for region in regions:
        if region.start > reached:
            return reached, min(region.start, end) if end else region.start
        if not region.end:
            return None
        reached = max(reached, region.end)
        if end and reached >= end:
            return None
    return reached, end
