"""Errors of latches and their fencing tokens."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown


class StaleTokenError(TheFlashError):
    """A writer tried to write after its latch was granted to another holder."""

    held: int
    current: int
    template = "fencing token {held} is stale: a writer with {current} took over"


class LeaseExpiredError(TheFlashError):
    """A read latch expired before the read completed; the files it protected may be deleted."""

    retryable = True
    lease_id: str
    snapshot_ts: int

    def __str__(self) -> str:
        return f"read latch {self.lease_id} on snapshot {shown(self.snapshot_ts)} has expired"


class LatchNotFoundError(TheFlashError):
    """There is no latch with this id, or it has ended."""

    latch_id: str
    template = "no latch {latch_id}; it may have expired"


class LatchHeldError(TheFlashError):
    """Another holder has the scope, or an earlier request for it, until the wait timed out."""

    retryable = True
    scope: str
    holder: str
    template = "no latch on {scope}: blocked by the {holder}"


class LatchOrderError(TheFlashError):
    """A potential deadlock: a latch holder may only wait for scopes that are ordered later."""

    deterministic = True
    wanted: str
    held: str
    template = (
        "cannot wait for {wanted} while holding {held}, as others may wait in the "
        "opposite order: release it first, or acquire latches in the order of their scopes"
    )


class LatchLostError(TheFlashError):
    """An operation was not executed, as its caller does not hold the latch, or no longer."""

    latch_id: str
    token: int
    template = (
        "latch {latch_id} with fencing token {token} is not held by this caller, or has ended: "
        "acquire a new latch"
    )
