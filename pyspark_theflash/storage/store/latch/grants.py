"""Granting latches: one queue for the store, on its board.

    acquire ──► nobody in the way ──────────────────────────────► latch, with the next token
          └───► somebody holds it, or has waited longer: ticket ──┘   │
                                      └── time is over ► LatchHeldError│ renew, release, time
                                                                       ▼
                                                                      gone

Fair: who waits has a ticket, and nobody with a later one, or none, passes where both want what
cannot be held together. A ticket whose owner has stopped looking is void after `TICKET_MS`.

No deadlock: a latch has one scope, and who holds some that exclude others waits only for a scope
behind all of them (store, then tables, each with what it contains, by their ids). So among those
who wait for each other somebody holds the last scope, and waits for none of the others; the ticket
of somebody who waits for what one holds oneself does not count, since that wait ends after ours.
Every wait has an end anyway.

Everything here is one transaction on the manifest's database each, as is a commit: between the look
at a latch (`check`) and the commit that it is for, nobody can be granted another.
"""

import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    LatchHeldError,
    LatchLostError,
    LatchOrderError,
)
from pyspark_theflash.base.types import FencingToken, TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import Grant, Latch, LatchRequest, LatchWaiter
from pyspark_theflash.storage.store.manifest import DATABASE, Guard, Manifest
from pyspark_theflash.storage.store.transient import (
    FENCE_KIND,
    LATCH_KIND,
    TICKET_KIND,
    TransientRecords,
)
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, load, uint64

TICKET_MS: Final = 3_000
LOOK_MS: Final = 20
_FENCE_KEY: Final = "token"


class Grants:
    """The latches of one store that are granted to callers."""

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
        """Wait for a latch, and take it.

        Args:
            check: called again and again while waiting; ends the wait by raising.
            snapshot_ts: what a latch pins that pins one.
            holder: the process that it ends with, if it does.

        Raises:
            LatchHeldError: somebody was in the way until the wait ended.
            LatchOrderError: waiting could end in a deadlock.
        """
        deadline_ms = self._clock.boottime_ms() + wait_ms
        ticket: LatchWaiter | None = None
        try:
            while True:
                with transient.opened(self._manifest, write=True) as rows:
                    in_the_way = self._in_the_way(rows, wanted, ticket)
                    if in_the_way is None:
                        latch = self._grant(rows, wanted, snapshot_ts, holder)
                        self._drop(rows, ticket)
                        return latch
                    if self._clock.boottime_ms() >= deadline_ms:
                        raise LatchHeldError(str(wanted.scope), str(in_the_way))
                    ticket = self._queued(rows, wanted, ticket)
                self._wait(wanted, ticket, deadline_ms, check)
        finally:
            if ticket is not None:
                with transient.opened(self._manifest, write=True) as rows:
                    self._drop(rows, ticket)

    def renew(self, id: str, token: int) -> Latch:
        """Start a latch's time over. Raises `LatchLostError`: it has ended."""
        with transient.opened(self._manifest, write=True) as rows:
            latch = self._living(rows, id, token)
            ttl_ms = latch.grant.wanted.ttl_ms if latch.grant else 0
            latch = replace(latch, expires_ms=self._clock.boottime_ms() + ttl_ms)
            rows.put(LATCH_KIND, id, latch.to_body())
        return latch

    def hold_by(self, id: str, token: int, holder: Holder) -> None:
        """Have a latch end with a process, too. Raises `LatchLostError`: it has ended."""
        with transient.opened(self._manifest, write=True) as rows:
            latch = replace(self._living(rows, id, token), holder=holder)
            rows.put(LATCH_KIND, id, latch.to_body())

    def release(self, id: str, token: int) -> None:
        """End a latch. Raises `LatchLostError`: it has ended before, so it may have been too late.

        What was done under it until its end was done.
        """
        with transient.opened(self._manifest, write=True) as rows:
            self._living(rows, id, token)
            rows.remove(LATCH_KIND, id)

    def look(self, id: str, token: int) -> Grant:
        """Return the grant of a latch that is held. Raises `LatchLostError`."""
        with transient.opened(self._manifest, write=False) as rows:
            return self._granted(rows, id, token)

    def guard(self, latches: Sequence[tuple[str, int]]) -> Guard:
        """Raises `LatchLostError` unless all of these, (id, token), are held."""

        def check(db: sqlite3.Connection) -> None:
            rows = TransientRecords(self._manifest, db)
            for id, token in latches:
                self._granted(rows, id, token)

        return check

    def waiting(self) -> list[LatchWaiter]:
        """The requests that wait, in the order of the queue."""
        with transient.opened(self._manifest, write=False) as rows:
            return [ticket for ticket in self._tickets(rows) if ticket.is_alive(self._clock)]

    # -- who comes next

    def _in_the_way(
        self, rows: TransientRecords, wanted: LatchRequest, own: LatchWaiter | None
    ) -> LatchRequest | None:
        """Return the request that must go before; None if there is none."""
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
        """The ticket, made or given new time; one that has become void loses its place."""
        now_ms = self._clock.boottime_ms()
        if ticket is None or rows.row(TICKET_KIND, ticket.id) is None:
            for held in self._held(rows):
                if held.owner == wanted.owner and held.scope.path >= wanted.scope.path:
                    raise LatchOrderError(str(wanted.scope), str(held.scope))
            number, boot_id = self._next_token(rows), self._clock.boot_id()
            ticket = LatchWaiter(self._new_id(), number, boot_id, 0, wanted)
        ticket = replace(ticket, expires_ms=now_ms + TICKET_MS)
        rows.put(TICKET_KIND, ticket.id, ticket.to_body())
        return ticket

    def _wait(
        self, wanted: LatchRequest, ticket: LatchWaiter, deadline_ms: int, check: Callable[[], None]
    ) -> None:
        """Until nobody seems to be in the way, the ticket needs new time, or all time is over."""
        until_ms = min(deadline_ms, ticket.expires_ms - TICKET_MS // 2)
        while True:
            check()
            left_ms = until_ms - self._clock.boottime_ms()
            if left_ms <= 0:
                return
            self._clock.sleep_ms(min(LOOK_MS, left_ms))
            with transient.opened(self._manifest, write=False) as rows:
                if self._in_the_way(rows, wanted, ticket) is None:
                    return

    def _grant(
        self,
        rows: TransientRecords,
        wanted: LatchRequest,
        snapshot_ts: TimeStamp | None,
        holder: Holder | None,
    ) -> Latch:
        self._sweep(rows)
        latch = Latch(
            self._new_id(),
            wanted.kind,
            snapshot_ts or TimeStamp(0),
            self._manifest.head().generation,
            self._clock.boot_id(),
            self._clock.boottime_ms() + wanted.ttl_ms,
            holder,
            Grant(self._next_token(rows), wanted),
        )
        rows.put(LATCH_KIND, latch.id, latch.to_body())
        return latch

    # -- rows

    def _next_token(self, rows: TransientRecords) -> FencingToken:
        try:
            token = FencingToken(uint64(load(rows.row(FENCE_KIND, _FENCE_KEY) or b"0")) + 1)
        except SHAPE_ERRORS as error:
            raise self._corrupt("the fencing token is not one") from error
        rows.put(FENCE_KIND, _FENCE_KEY, str(token).encode())
        return token

    def _held(self, rows: TransientRecords) -> list[LatchRequest]:
        """The latches that are held now and exclude others."""
        latches = (self._latch(id, body) for id, body in rows.rows(LATCH_KIND).items())
        living = (latch for latch in latches if latch.is_alive(self._clock))
        return [x.grant.wanted for x in living if x.grant is not None and x.grant.wanted.excludes]

    def _tickets(self, rows: TransientRecords) -> list[LatchWaiter]:
        try:
            tickets = [
                LatchWaiter.from_body(id, body) for id, body in rows.rows(TICKET_KIND).items()
            ]
        except CodecError as error:
            raise self._corrupt("a ticket of a waiter is not one") from error
        return sorted(tickets, key=lambda ticket: ticket.number)

    def _drop(self, rows: TransientRecords, ticket: LatchWaiter | None) -> None:
        if ticket is not None:
            rows.remove(TICKET_KIND, ticket.id)

    def _sweep(self, rows: TransientRecords) -> None:
        """Remove tickets of those who are gone, and latches that have run out."""
        for ticket in self._tickets(rows):
            if not ticket.is_alive(self._clock):
                rows.remove(TICKET_KIND, ticket.id)
        for id, body in rows.rows(LATCH_KIND).items():
            if not self._latch(id, body).is_alive(self._clock):
                rows.remove(LATCH_KIND, id)

    def _granted(self, rows: TransientRecords, id: str, token: int) -> Grant:
        grant = self._living(rows, id, token).grant
        if grant is None:
            raise LatchLostError(id, token)
        return grant

    def _living(self, rows: TransientRecords, id: str, token: int) -> Latch:
        body = rows.row(LATCH_KIND, id)
        latch = None if body is None else self._latch(id, body)
        if latch is None or latch.grant is None or latch.grant.token != token:
            raise LatchLostError(id, token)
        if not latch.is_alive(self._clock):
            raise LatchLostError(id, token)
        return latch

    def _latch(self, id: str, body: bytes) -> Latch:
        try:
            return Latch.from_body(id, body)
        except CodecError as error:
            raise self._corrupt(f"latch {id} is not one") from error

    def _corrupt(self, reason: str) -> CorruptionError:
        return CorruptionError(str(self._manifest.folder / DATABASE), 0, reason)
