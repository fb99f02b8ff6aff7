"""Group commit: append the payloads of many callers to a spool with one sync.

A sync takes as long for many payloads as for one, and as much CPU as a call. Callers that arrive
during a sync form the next group. Each caller of the last group is likely to call again, so before
it is written the next group waits up to `GATHER_MS` for as many callers as were in the last group
plus those that arrived since. A single caller never waits.

    A   join . write, sync . return   join ....... write, sync . return
    B      join ............................... .  write, sync . return
    C         join ............................ .  write, sync . return
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import InternalError, SpoolFullError, TheFlashError
from pyspark_theflash.replication.pump.spool import Spool

GATHER_MS: Final = 2


@dataclass(frozen=True, slots=True)
class _Caller:
    payload: bytes
    spare_bytes: int
    done: asyncio.Future[None]


class GroupCommit:
    """Group commit for one spool. Use it only in the event loop that it was created in."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pump spool")
        self._waiting: list[_Caller] = []
        self._is_writing = False
        self._expected = 1
        self._timer: asyncio.TimerHandle | None = None

    async def append(self, payload: bytes, spare_bytes: int = 0) -> None:
        """Append a message durably. Raises the errors of `Spool.append`.

        If the call is cancelled before its group is written, the message is not written.
        """
        caller = _Caller(payload, spare_bytes, self._loop.create_future())
        self._waiting.append(caller)
        self._gather()
        await caller.done

    def close(self) -> None:
        """Stop the thread after the group that it is writing."""
        self._thread.shutdown()

    def _gather(self) -> None:
        """Write the waiting group if it is complete; otherwise start the timer for more callers."""
        if self._is_writing:
            return
        if len(self._waiting) >= self._expected:
            self._write()
        elif self._timer is None:
            self._timer = self._loop.call_later(GATHER_MS / 1000, self._write)

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        group = [caller for caller in self._waiting if not caller.done.done()]
        self._waiting.clear()
        if group:
            self._is_writing = True
            writing = self._thread.submit(self._append, group)
            writing.add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(self._answer, group, done)
            )

    def _append(self, group: Sequence[_Caller]) -> Sequence[TheFlashError | None]:
        """Append a group in the thread; return each caller's error, None if it succeeded."""
        try:
            self._spool.append(
                [caller.payload for caller in group],
                spare_bytes=max(caller.spare_bytes for caller in group),
            )
        except SpoolFullError as error:
            # There may be room for some of them.
            return [error] if len(group) == 1 else [self._append([each])[0] for each in group]
        except TheFlashError as error:
            return [error] * len(group)
        return [None] * len(group)

    def _answer(
        self, group: Sequence[_Caller], done: Future[Sequence[TheFlashError | None]]
    ) -> None:
        self._is_writing = False
        self._expected = len(group) + len(self._waiting)
        failure = done.exception()
        errors = (
            done.result()
            if failure is None
            else [InternalError(f"the spool failed: {failure!r}")] * len(group)
        )
        for caller, error in zip(group, errors, strict=True):
            if caller.done.done():
                continue
            if error is None:
                caller.done.set_result(None)
            else:
                caller.done.set_exception(error)
        if self._waiting:
            self._gather()
