"""Errors of latches and their fencing tokens."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown


class StaleTokenError(TheFlashError):
    """A writer tried to write after its latch was granted to another holder."""

    def __init__(self, held: int, current: int) -> None:
        super().__init__(held, current)
        self.held, self.current = held, current

    def __str__(self) -> str:
        return f"fencing token {self.held} is stale: a writer with {self.current} took over"


class LeaseExpiredError(TheFlashError):
    """A read latch expired before the read completed; the files it protected may be deleted."""

    retryable = True

    def __init__(self, lease_id: str, snapshot_ts: int) -> None:
        super().__init__(lease_id, snapshot_ts)
        self.lease_id, self.snapshot_ts = lease_id, snapshot_ts

    def __str__(self) -> str:
        return f"read latch {self.lease_id} on snapshot {shown(self.snapshot_ts)} has expired"


class LatchNotFoundError(TheFlashError):
    """There is no latch with this id, or it has ended."""

    def __init__(self, latch_id: str) -> None:
        super().__init__(latch_id)
        self.latch_id = latch_id

    def __str__(self) -> str:
        return f"no latch {self.latch_id}; it may have expired"


class LatchHeldError(TheFlashError):
    """Another holder has the scope, or an earlier request for it, until the wait timed out."""

    retryable = True

    def __init__(self, scope: str, holder: str) -> None:
        super().__init__(scope, holder)
        self.scope, self.holder = scope, holder

    def __str__(self) -> str:
        return f"no latch on {self.scope}: blocked by the {self.holder}"


class LatchOrderError(TheFlashError):
    """A potential deadlock: a latch holder may only wait for scopes that are ordered later."""

    deterministic = True

    def __init__(self, wanted: str, held: str) -> None:
        super().__init__(wanted, held)
        self.wanted, self.held = wanted, held

    def __str__(self) -> str:
        return (
            f"cannot wait for {self.wanted} while holding {self.held}, as others may wait in the "
            "opposite order: release it first, or acquire latches in the order of their scopes"
        )


class LatchLostError(TheFlashError):
    """An operation under a latch came after the latch had ended; it was not executed."""

    def __init__(self, latch_id: str, token: int) -> None:
        super().__init__(latch_id, token)
        self.latch_id, self.token = latch_id, token

    def __str__(self) -> str:
        return (
            f"latch {self.latch_id} with fencing token {self.token} has ended, and its scope may "
            "have another holder: acquire a new latch"
        )
