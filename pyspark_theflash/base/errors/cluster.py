"""Errors of TiDB's cluster: pumps, PD, TiKV and its regions."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.errors.service import ServiceRefusedError, ServiceUnavailableError
from pyspark_theflash.base.timestamp import shown


class PumpUnavailableError(ServiceUnavailableError):
    """The pump that binlogs are pulled from does not respond."""


class PumpRefusedError(ServiceRefusedError):
    """The pump rejects the request: another cluster, an unknown position or no permission."""


class OtherPumpError(TheFlashError):
    """Another pump is registered, so part of the binlog is written there."""

    node_id: str
    state: str
    template = (
        "pump {node_id} is {state}: TiDB writes some of its transactions there, "
        "and they would be missing here; take it offline, or follow it too, under the name "
        "that it is registered with in PD"
    )


class PDUnavailableError(ServiceUnavailableError):
    """No member of PD responds, or PD has no leader."""


class PDRefusedError(ServiceRefusedError):
    """PD responds with an error."""


class TiKVUnavailableError(ServiceUnavailableError):
    """A TiKV store does not respond, or no store serves a region, until the deadline."""


class TiKVRefusedError(ServiceRefusedError):
    """A TiKV store responds with an error that a retry does not resolve."""


class ChangeFeedError(TheFlashError):
    """TiKV's change feed contradicts what it sent before, so changes may be missing."""

    deterministic = True
    where: str
    reason: str
    template = (
        "{where}: {reason}; the store may have lost changes of these rows: load their tables again"
    )


class RegionGapError(TheFlashError):
    """A part of a key range is not covered by any region, so its rows would be missing."""

    retryable = True
    start: str
    end: str

    def __str__(self) -> str:
        start, end = self.start or "the first", self.end or "the last"
        return f"no region covers the keys from {start} to {end}"


class KeyIsLockedError(TheFlashError):
    """A key is locked by a transaction from before the snapshot whose outcome is unknown.

    `where` is the table of the locked row.
    """

    retryable = True
    start_ts: int
    where: str
    state: str
    template = "{where} is locked by transaction start_ts={start_ts}, which {state}"


class LockResolveError(TheFlashError):
    """TiKV reports an inconsistent transaction; its locks were not skipped."""

    start_ts: int
    reason: str
    template = "transaction start_ts={start_ts}: {reason}"


class GCBarrierLostError(TheFlashError):
    """TiKV may have collected versions that a store still needs, as its GC barrier has ended."""

    deterministic = True
    service: str
    ts: int
    safe_point: int

    def __str__(self) -> str:
        return (
            f"TiKV's garbage collection has reached {shown(self.safe_point)}, above "
            f"{shown(self.ts)}, which the barrier {self.service!r} held: changes may be missing "
            "from there on; remove the store, and load it again with theflash follow"
        )


class RegionNotReadableError(TheFlashError):
    """A TiKV region is not in this store, or cannot be read at present."""

    retryable = True
    region_id: int
    state: str
    template = "region {region_id} {state}"


class RegionEpochNotMatchError(TheFlashError):
    """A region was split or merged since it was looked up; the caller must look it up again."""

    retryable = True
    region_id: int
    wanted: int
    actual: int
    template = "region {region_id} is of version {actual}, not {wanted}"


class RegionBehindError(TheFlashError):
    """A region did not apply its log up to the required index in time."""

    retryable = True
    region_id: int
    applied: int
    wanted: int
    template = "region {region_id} has applied index {applied}, need {wanted}"


class RegionStoppedError(TheFlashError):
    """A learner cannot follow a region any further, so its newer rows are missing."""

    region_id: int
    applied: int
    reason: str
    template = (
        "region {region_id} stays at index {applied}: {reason}; remove and add its learner, so "
        "that TiKV sends a snapshot, or use theflash follow"
    )


class RaftCommandError(TheFlashError):
    """A raft command or snapshot is inconsistent with what was applied before."""

    deterministic = True
    region_id: int
    index: int
    reason: str
    template = "region {region_id} at index {index}: {reason}"


class CacheFullError(TheFlashError):
    """Open transactions use more memory than the limit, and cannot be written to the engine."""

    retryable = True
    size_bytes: int
    limit_bytes: int
    template = (
        "{size_bytes} bytes of transactions that have not ended are held in memory, "
        "the limit is {limit_bytes}: raise the limit, or commit in smaller transactions"
    )
