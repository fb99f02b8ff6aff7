"""Acquire, renew and release latches, with one fair queue per store.

    acquire ──► no conflict ──────────────────────────────────► latch, with the next token
          └───► conflict with a latch or earlier ticket: wait ──┘   │
                                    └── timeout ► LatchHeldError    │ release, or expiry
                                                                    ▼
                                                                   end

Fairness: A waiting request has a ticket, and no conflicting request with a later ticket, or none,
is granted before it. A ticket that its owner does not renew expires after `TICKET_MS`.

Deadlocks: An owner of exclusive latches may only wait for a scope that sorts after all of theirs
(the store, then tables, each followed by the scopes in it, by id). So in any group of owners that
wait for each other, the owner of the last scope waits for none of the others. The ticket of an
owner who waits for one's own latch is ignored, since that wait ends later. Besides, every wait has
a timeout.

Every method is one transaction on the manifest's database, and so is a commit with its `guard`. So
no conflicting latch can be granted between the check of a latch and the commit under it.
"""

import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import LatchHeldError, LatchLostError, LatchOrderError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.latch import fence
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import (
    Grant,
    Latch,
    LatchClaim,
    LatchRequest,
    LatchWaiter,
)
from pyspark_theflash.storage.store.latch.lease import id_of
from pyspark_theflash.storage.store.manifest import Guard, Manifest
from pyspark_theflash.storage.store.transient import LATCH_KIND, TICKET_KIND, TransientRecords

TICKET_MS: Final = 3_000
LOOK_MS: Final = 20


class LatchQueue:
    """The granted latches of a store, and the requests that wait for them."""

    def __init__(
        self, manifest: Manifest, clock: Clock, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self._manifest, self._clock, self._new_id = manifest, clock, new_id

    def acquire(
        self,
        wanted: LatchRequest,
        *,
        wait_ms: int = 0,
        check: Callable[[], None] = lambda: None,
        snapshot_ts: TimeStamp | None = None,
        holder: Holder | None = None,
    ) -> Latch:
        """Acquire a latch; wait up to `wait_ms` for conflicting ones.

        Args:
            check: called repeatedly while waiting; an exception ends the wait.
            snapshot_ts: the timestamp to pin, for the kinds that pin one.
            holder: the process with which the latch ends, or None.

        Raises:
            LatchHeldError: A conflicting latch or request remained until the timeout.
            LatchOrderError: Waiting could result in a deadlock.
        """
        deadline_ms = self._clock.boottime_ms() + wait_ms
        ticket: LatchWaiter | None = None
        try:
            while True:
                with transient.opened(self._manifest, write=True) as rows:
                    conflict = self._conflict(rows, wanted, ticket)
                    if conflict is None:
                        latch = self._grant(rows, wanted, snapshot_ts, holder)
                        self._drop(rows, ticket)
                        return latch
                    if self._clock.boottime_ms() >= deadline_ms:
                        raise LatchHeldError(str(wanted.scope), str(conflict))
                    ticket = self._queued(rows, wanted, ticket)
                self._wait(wanted, ticket, deadline_ms, check)
        finally:
            if ticket is not None:
                with transient.opened(self._manifest, write=True) as rows:
                    self._drop(rows, ticket)

    def renew(self, claim: LatchClaim) -> Latch:
        """Extend a latch by its TTL from now. Raises `LatchLostError` if it is not held."""
        with transient.opened(self._manifest, write=True) as rows:
            latch, grant = self._living(rows, claim)
            expires_ms = self._clock.boottime_ms() + grant.wanted.ttl_ms
            latch = replace(latch, expires_ms=expires_ms)
            rows.put(LATCH_KIND, claim.id, latch.to_body())
        return latch

    def hold_by(self, claim: LatchClaim, holder: Holder) -> None:
        """Make a latch end with a process, too. Raises `LatchLostError` if it is not held."""
        with transient.opened(self._manifest, write=True) as rows:
            latch = replace(self._living(rows, claim)[0], holder=holder)
            rows.put(LATCH_KIND, claim.id, latch.to_body())

    def release(self, claim: LatchClaim) -> None:
        """Release a latch.

        Raises:
            LatchLostError: The latch is not held. If it had ended before, the last writes under it
                may have been rejected.
        """
        with transient.opened(self._manifest, write=True) as rows:
            self._living(rows, claim)
            rows.remove(LATCH_KIND, claim.id)
            fence.forget(rows, claim.id)

    def look(self, claim: LatchClaim) -> Grant:
        """Return the grant of a latch. Raises `LatchLostError` if it is not held."""
        with transient.opened(self._manifest, write=False) as rows:
            return self._living(rows, claim)[1]

    def guard(self, claims: Sequence[LatchClaim]) -> Guard:
        """Return a guard that raises `LatchLostError` unless all latches are held."""

        def check(db: sqlite3.Connection) -> None:
            rows = TransientRecords(self._manifest, db)
            for claim in claims:
                self._living(rows, claim)

        return check

    def waiting(self) -> list[LatchWaiter]:
        """Return the waiting requests in the order of the queue."""
        with transient.opened(self._manifest, write=False) as rows:
            return [ticket for ticket in self._tickets(rows) if ticket.is_alive(self._clock)]

    # -- queue

    def _conflict(
        self, rows: TransientRecords, wanted: LatchRequest, own: LatchWaiter | None
    ) -> LatchRequest | None:
        """Return a held latch or an earlier request that conflicts; None if there is none."""
        if not wanted.excludes:
            return None
        held = self._held(rows)
        mine = [x for x in held if x.owner == wanted.owner]
        for other in mine:
            if other.conflicts(wanted):
                raise LatchHeldError(str(wanted.scope), f"{other}, which is the same caller")
        for other in held:
            if other.conflicts(wanted):
                return other
        for ticket in self._tickets(rows):
            if own is not None and ticket.number >= own.number:
                break
            waits_for_me = any(ticket.wanted.conflicts(x) for x in mine)
            is_ahead = ticket.is_alive(self._clock) and not waits_for_me
            if is_ahead and ticket.wanted.conflicts(wanted):
                return ticket.wanted
        return None

    def _queued(
        self, rows: TransientRecords, wanted: LatchRequest, ticket: LatchWaiter | None
    ) -> LatchWaiter:
        """Create or renew a ticket. An expired one that was removed loses its place."""
        now_ms = self._clock.boottime_ms()
        if ticket is None or rows.row(TICKET_KIND, ticket.id) is None:
            for held in self._held(rows):
                if held.owner == wanted.owner and held.scope.path >= wanted.scope.path:
                    raise LatchOrderError(str(wanted.scope), str(held.scope))
            excluding = [latch.id for latch in fence.excluding(rows)]
            number, boot_id = fence.advance(rows, excluding), self._clock.boot_id()
            ticket = LatchWaiter(self._new_id(), number, boot_id, 0, wanted)
        ticket = replace(ticket, expires_ms=now_ms + TICKET_MS)
        rows.put(TICKET_KIND, ticket.id, ticket.to_body())
        return ticket

    def _wait(
        self, wanted: LatchRequest, ticket: LatchWaiter, deadline_ms: int, check: Callable[[], None]
    ) -> None:
        """Wait until there is no conflict, the ticket must be renewed, or the timeout."""
        until_ms = min(deadline_ms, ticket.expires_ms - TICKET_MS // 2)
        while True:
            check()
            left_ms = until_ms - self._clock.boottime_ms()
            if left_ms <= 0:
                return
            self._clock.sleep_ms(min(LOOK_MS, left_ms))
            with transient.opened(self._manifest, write=False) as rows:
                if self._conflict(rows, wanted, ticket) is None:
                    return

    def _grant(
        self,
        rows: TransientRecords,
        wanted: LatchRequest,
        snapshot_ts: TimeStamp | None,
        holder: Holder | None,
    ) -> Latch:
        excluding = self._swept(rows)
        id = self._new_id()
        if wanted.excludes:
            excluding.append(id)
        else:
            id = id_of(wanted.identity, id)
        latch = Latch(
            id,
            wanted.kind,
            snapshot_ts or TimeStamp(0),
            self._manifest.head().generation,
            self._clock.boot_id(),
            self._clock.boottime_ms() + wanted.ttl_ms,
            holder,
            Grant(fence.advance(rows, excluding), wanted),
        )
        rows.put(LATCH_KIND, latch.id, latch.to_body())
        return latch

    # -- rows

    def _held(self, rows: TransientRecords) -> list[LatchRequest]:
        """Return the requests of the current latches that exclude others."""
        living = (latch for latch in fence.excluding(rows) if latch.is_alive(self._clock))
        return [latch.grant.wanted for latch in living if latch.grant is not None]

    def _tickets(self, rows: TransientRecords) -> list[LatchWaiter]:
        tickets = rows.load_all(TICKET_KIND, LatchWaiter.from_body)
        return sorted(tickets, key=lambda ticket: ticket.number)

    def _drop(self, rows: TransientRecords, ticket: LatchWaiter | None) -> None:
        if ticket is not None:
            rows.remove(TICKET_KIND, ticket.id)

    def _swept(self, rows: TransientRecords) -> list[str]:
        """Remove expired tickets, and latches that excluded others; return the ids of the rest."""
        for ticket in self._tickets(rows):
            if not ticket.is_alive(self._clock):
                rows.remove(TICKET_KIND, ticket.id)
        living = []
        for latch in fence.excluding(rows):
            if latch.is_alive(self._clock):
                living.append(latch.id)
            else:
                rows.remove(LATCH_KIND, latch.id)
        return living

    def _living(self, rows: TransientRecords, claim: LatchClaim) -> tuple[Latch, Grant]:
        """Return a latch that is held, and by this caller."""
        latch = rows.load(LATCH_KIND, claim.id, Latch.from_body)
        if latch is None or latch.grant is None or not latch.grant.token:
            raise LatchLostError(claim.id, claim.token)
        if latch.claim != claim or not latch.is_alive(self._clock):
            raise LatchLostError(claim.id, claim.token)
        return latch, latch.grant
