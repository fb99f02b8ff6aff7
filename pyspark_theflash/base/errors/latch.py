"""Latches and the tokens that fence."""

from pyspark_theflash.base.errors.base import TheFlashError
from pyspark_theflash.base.timestamp import shown


class StaleTokenError(TheFlashError):
    """A writer whose latch has gone to somebody else tried to write."""

    def __init__(self, held: int, current: int) -> None:
        super().__init__(held, current)
        self.held, self.current = held, current

    def __str__(self) -> str:
        return f"fencing token {self.held} is stale: a writer with {self.current} took over"


class LeaseExpiredError(TheFlashError):
    """A read latch ran out before the read was done; what it pinned may be gone."""

    retryable = True

    def __init__(self, lease_id: str, snapshot_ts: int) -> None:
        super().__init__(lease_id, snapshot_ts)
        self.lease_id, self.snapshot_ts = lease_id, snapshot_ts

    def __str__(self) -> str:
        return f"read latch {self.lease_id} on snapshot {shown(self.snapshot_ts)} has expired"


class LatchNotFoundError(TheFlashError):
    """No latch of that id, or not any more."""

    def __init__(self, latch_id: str) -> None:
        super().__init__(latch_id)
        self.latch_id = latch_id

    def __str__(self) -> str:
        return f"no latch {self.latch_id}; it may have run out"


class LatchHeldError(TheFlashError):
    """Somebody else holds what was asked for, or has asked for it earlier, until the wait ended."""

    retryable = True

    def __init__(self, scope: str, holder: str) -> None:
        super().__init__(scope, holder)
        self.scope, self.holder = scope, holder

    def __str__(self) -> str:
        return f"no latch on {self.scope}: there is the {self.holder}"


class LatchOrderError(TheFlashError):
    """A wait that could last for ever: who holds a latch waits only for scopes behind it."""

    deterministic = True

    def __init__(self, wanted: str, held: str) -> None:
        super().__init__(wanted, held)
        self.wanted, self.held = wanted, held

    def __str__(self) -> str:
        return (
            f"while {self.held} is held, {self.wanted} cannot be waited for, as others may wait "
            "the other way round: release it first, or take latches in the order of their scopes"
        )


class LatchLostError(TheFlashError):
    """What was to be done under a latch came after the latch had ended; nothing was done."""

    def __init__(self, latch_id: str, token: int) -> None:
        super().__init__(latch_id, token)
        self.latch_id, self.token = latch_id, token

    def __str__(self) -> str:
        return (
            f"latch {self.latch_id} with fencing token {self.token} has ended, and somebody else "
            "may hold what it was for: take another"
        )
