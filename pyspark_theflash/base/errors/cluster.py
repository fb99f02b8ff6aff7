"""Errors of TiDB's cluster: pumps, PD, TiKV and its regions."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.errors.service import ServiceRefusedError, ServiceUnavailableError


class PumpUnavailableError(ServiceUnavailableError):
    """The pump that binlogs are pulled from does not respond."""


class PumpRefusedError(ServiceRefusedError):
    """The pump rejects the request: another cluster, an unknown position or no permission."""


class OtherPumpError(TheFlashError):
    """Another pump is registered, so part of the binlog is written there."""

    def __init__(self, node_id: str, state: str) -> None:
        super().__init__(node_id, state)
        self.node_id, self.state = node_id, state

    def __str__(self) -> str:
        return (
            f"pump {self.node_id} is {self.state}: TiDB writes some of its transactions there, "
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


class RegionGapError(TheFlashError):
    """A part of a key range is not covered by any region, so its rows would be missing."""

    retryable = True

    def __init__(self, start: str, end: str) -> None:
        super().__init__(start, end)
        self.start, self.end = start, end

    def __str__(self) -> str:
        start, end = self.start or "the first", self.end or "the last"
        return f"no region covers the keys from {start} to {end}"


class KeyIsLockedError(TheFlashError):
    """A key is locked by a transaction from before the snapshot whose outcome is unknown.

    `where` is the table of the locked row.
    """

    retryable = True

    def __init__(self, start_ts: int, where: str, state: str) -> None:
        super().__init__(start_ts, where, state)
        self.start_ts, self.where, self.state = start_ts, where, state

    def __str__(self) -> str:
        return f"{self.where} is locked by transaction start_ts={self.start_ts}, which {self.state}"


class LockResolveError(TheFlashError):
    """TiKV reports an inconsistent transaction; its locks were not skipped."""

    def __init__(self, start_ts: int, reason: str) -> None:
        super().__init__(start_ts, reason)
        self.start_ts, self.reason = start_ts, reason

    def __str__(self) -> str:
        return f"transaction start_ts={self.start_ts}: {self.reason}"


class RegionNotReadableError(TheFlashError):
    """A TiKV region is not in this store, or cannot be read at present."""

    retryable = True

    def __init__(self, region_id: int, state: str) -> None:
        super().__init__(region_id, state)
        self.region_id, self.state = region_id, state

    def __str__(self) -> str:
        return f"region {self.region_id} {self.state}"


class RegionEpochNotMatchError(TheFlashError):
    """A region was split or merged since it was looked up; the caller must look it up again."""

    retryable = True

    def __init__(self, region_id: int, wanted: int, found: int) -> None:
        super().__init__(region_id, wanted, found)
        self.region_id, self.wanted, self.found = region_id, wanted, found

    def __str__(self) -> str:
        return f"region {self.region_id} is of version {self.found}, not {self.wanted}"


class RegionBehindError(TheFlashError):
    """A region did not apply its log up to the required index in time."""

    retryable = True

    def __init__(self, region_id: int, applied: int, wanted: int) -> None:
        super().__init__(region_id, applied, wanted)
        self.region_id, self.applied, self.wanted = region_id, applied, wanted

    def __str__(self) -> str:
        return f"region {self.region_id} has applied index {self.applied}, need {self.wanted}"


class RaftCommandError(TheFlashError):
    """A raft command or snapshot is inconsistent with what was applied before."""

    deterministic = True

    def __init__(self, region_id: int, index: int, reason: str) -> None:
        super().__init__(region_id, index, reason)
        self.region_id, self.index, self.reason = region_id, index, reason

    def __str__(self) -> str:
        return f"region {self.region_id} at index {self.index}: {self.reason}"


class CacheFullError(TheFlashError):
    """Open transactions use more memory than the limit, and cannot be written to the engine."""

    retryable = True

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.size_bytes} bytes of transactions that have not ended are held in memory, "
            f"the limit is {self.limit_bytes}: raise the limit, or commit in smaller transactions"
        )
