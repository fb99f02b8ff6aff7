"""Raft commands and snapshots as TiKV sends them to a learner, decoded."""

from dataclasses import dataclass, field
from typing import TypeAlias

from pyspark_theflash.base.types import RegionID
from pyspark_theflash.tikv.region import ApplyState, Peer, RaftRegion


@dataclass(frozen=True, slots=True)
class SplitRegion:
    """A split of a region into `regions`, one of which keeps its id."""

    regions: tuple[RaftRegion, ...]


@dataclass(frozen=True, slots=True)
class ChangePeers:
    """A change of a region's peers."""

    region: RaftRegion


@dataclass(frozen=True, slots=True)
class PrepareMerge:
    """The start of a merge of the region into `target`."""

    min_index: int
    target: RaftRegion


@dataclass(frozen=True, slots=True)
class CommitMerge:
    """The merge of `source`, applied up to its index `commit`, into the region."""

    source: RaftRegion
    commit: int


@dataclass(frozen=True, slots=True)
class RollbackMerge:
    """The cancellation of a prepared merge."""


@dataclass(frozen=True, slots=True)
class CompactLog:
    """A truncation of the raft log up to an index."""

    index: int
    term: int


@dataclass(frozen=True, slots=True)
class NoChange:
    """A command without effect here: leader transfer, hash checks, witnesses, flashback."""


Admin: TypeAlias = (
    SplitRegion | ChangePeers | PrepareMerge | CommitMerge | RollbackMerge | CompactLog | NoChange
)


@dataclass(slots=True)
class RaftCommand:
    """One entry of a region's raft log. `requests` are serialized raft_cmdpb.Request messages.

    `must_sync`: The sender waits until the entry is durable. `destroys`: The replica is destroyed.

    Instances are not modified, but the class is not frozen: there are hundreds of thousands per
    second, and creating a frozen one takes three times as long.
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
    """A region's *durable* apply state, reported to TiKV; None if the region is destroyed."""

    region_id: RegionID
    state: ApplyState | None


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """The header of a snapshot: the region and its apply state after it, and the local peer."""

    region: RaftRegion
    applied: ApplyState
    peer: Peer | None


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """A deletion of all keys of a column family in [start, end)."""

    cf: str
    start: bytes
    end: bytes


@dataclass(frozen=True, slots=True)
class IngestFile:
    """An ingestion of an SST file of a bulk load. The command does not contain the data."""

    uuid: bytes
    cf: str
    start: bytes
    end: bytes
