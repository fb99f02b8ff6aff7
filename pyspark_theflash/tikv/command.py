"""Raft commands as a learner gets them: what was done to a region, at which index of its log."""

from dataclasses import dataclass, field
from typing import TypeAlias

from pyspark_theflash.base.types import RegionID
from pyspark_theflash.tikv.region import ApplyState, Peer, RaftRegion


@dataclass(frozen=True, slots=True)
class SplitRegion:
    """A region became these, its own id among them."""

    regions: tuple[RaftRegion, ...]


@dataclass(frozen=True, slots=True)
class ChangePeers:
    """A region has other peers now."""

    region: RaftRegion


@dataclass(frozen=True, slots=True)
class PrepareMerge:
    """A region is to become part of `target`."""

    min_index: int
    target: RaftRegion


@dataclass(frozen=True, slots=True)
class CommitMerge:
    """`source`, applied up to its index `commit`, becomes part of the region."""

    source: RaftRegion
    commit: int


@dataclass(frozen=True, slots=True)
class RollbackMerge:
    """A prepared merge came to nothing."""


@dataclass(frozen=True, slots=True)
class CompactLog:
    """The log up to here is no longer needed by those who have applied it."""

    index: int
    term: int


@dataclass(frozen=True, slots=True)
class NoChange:
    """A command without effect here: elections, checks of hashes, witnesses, flashback's marks."""


Admin: TypeAlias = (
    SplitRegion | ChangePeers | PrepareMerge | CommitMerge | RollbackMerge | CompactLog | NoChange
)


@dataclass(slots=True)
class RaftCommand:
    """One entry of a region's log. `requests` are raft_cmdpb.Request messages, as bytes.

    `must_sync`: the sender waits for it to be durable. `destroys`: the replica is to go. Not
    frozen, for there are hundreds of thousands a second, and a frozen one takes three times as long
    to make; once made, nobody changes one.
    """

    region_id: RegionID
    index: int
    term: int
    requests: list[bytes] = field(repr=False)
    admin: Admin | None = None
    must_sync: bool = False
    destroys: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """A store's answer for a region: how far it is *durably* applied, or that it is gone."""

    region_id: RegionID
    state: ApplyState | None


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """The head of a snapshot: the region as it is after it, and the store's own peer."""

    region: RaftRegion
    applied: ApplyState
    peer: Peer | None


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """All keys of a column family in [start, end) are gone."""

    cf: str
    start: bytes
    end: bytes


@dataclass(frozen=True, slots=True)
class IngestFile:
    """A bulk load's file is part of the region now; its content is not in the command."""

    uuid: bytes
    cf: str
    start: bytes
    end: bytes
