"""TiDB's cluster: pumps, PD, TiKV and its regions."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.errors.service import ServiceRefusedError, ServiceUnavailableError


class PumpUnavailableError(ServiceUnavailableError):
    """The pump that binlogs are pulled from does not answer."""


class PumpRefusedError(ServiceRefusedError):
    """The pump does not give out its binlogs: another cluster, an unknown position, no right to."""


class OtherPumpError(TheFlashError):
    """Another pump is registered, so that part of the binlog goes there and not here."""

    def __init__(self, node_id: str, state: str) -> None:
        super().__init__(node_id, state)
        self.node_id, self.state = node_id, state

    def __str__(self) -> str:
        return (
            f"pump {self.node_id} is {self.state}: TiDB writes some of its transactions there, "
            "and they would be missing here; take it offline, or follow it too, named as it is "
            "registered in PD"
        )


class PDUnavailableError(ServiceUnavailableError):
    """No member of PD answers, or PD has no leader."""


class PDRefusedError(ServiceRefusedError):
    """PD answers with an error."""


class TiKVUnavailableError(ServiceUnavailableError):
    """A store of TiKV does not answer, or none serves a region, until the deadline."""


class TiKVRefusedError(ServiceRefusedError):
    """A store of TiKV answers with an error that asking again does not mend."""


class RegionGapError(TheFlashError):
    """Part of a key range that no region covers: rows there would be missing."""

    retryable = True

    def __init__(self, start: str, end: str) -> None:
        super().__init__(start, end)
        self.start, self.end = start, end

    def __str__(self) -> str:
        start, end = self.start or "the first", self.end or "the last"
        return f"no region covers the keys from {start} to {end}"


class KeyIsLockedError(TheFlashError):
    """A transaction that began before the snapshot, and of which it is not known how it ended.

    `where` is the table of a row that it has locked.
    """

    retryable = True

    def __init__(self, start_ts: int, where: str, state: str) -> None:
        super().__init__(start_ts, where, state)
        self.start_ts, self.where, self.state = start_ts, where, state

    def __str__(self) -> str:
        return f"{self.where} is locked by transaction start_ts={self.start_ts}, which {self.state}"


class LockResolveError(TheFlashError):
    """TiKV says of a transaction what cannot be true of one; nothing was read past its locks."""

    def __init__(self, start_ts: int, reason: str) -> None:
        super().__init__(start_ts, reason)
        self.start_ts, self.reason = start_ts, reason

    def __str__(self) -> str:
        return f"transaction start_ts={self.start_ts}: {self.reason}"


class RegionNotReadableError(TheFlashError):
    """A region of TiKV that this store does not have, or that is not to be read just now."""

    retryable = True

    def __init__(self, region_id: int, state: str) -> None:
        super().__init__(region_id, state)
        self.region_id, self.state = region_id, state

    def __str__(self) -> str:
        return f"region {self.region_id} {self.state}"


class RegionEpochNotMatchError(TheFlashError):
    """A region was split or merged since it was looked up; look it up again."""

    retryable = True

    def __init__(self, region_id: int, wanted: int, found: int) -> None:
        super().__init__(region_id, wanted, found)
        self.region_id, self.wanted, self.found = region_id, wanted, found

    def __str__(self) -> str:
        return f"region {self.region_id} is of version {self.found}, not {self.wanted}"


class RegionBehindError(TheFlashError):
    """A region that has not applied its log up to the wanted index in time."""

    retryable = True

    def __init__(self, region_id: int, applied: int, wanted: int) -> None:
        super().__init__(region_id, applied, wanted)
        self.region_id, self.applied, self.wanted = region_id, applied, wanted

    def __str__(self) -> str:
        return f"region {self.region_id} has applied index {self.applied}, {self.wanted} is wanted"


class RaftCommandError(TheFlashError):
    """A raft command or snapshot that does not follow from what was applied before."""

    deterministic = True

    def __init__(self, region_id: int, index: int, reason: str) -> None:
        super().__init__(region_id, index, reason)
        self.region_id, self.index, self.reason = region_id, index, reason

    def __str__(self) -> str:
        return f"region {self.region_id} at index {self.index}: {self.reason}"


class CacheFullError(TheFlashError):
    """What waits in memory is more than it may be, and not for the engine to take."""

    retryable = True

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.size_bytes} bytes of transactions that have not ended wait in memory, "
            f"{self.limit_bytes} are allowed: raise the limit, or commit in smaller pieces"
        )
