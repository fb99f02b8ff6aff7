"""Queue of long-running work, which is split into pieces and executed round-robin.

A work is a generator that yields a piece, receives the piece's result or error, and yields the next
piece. Pieces run in a thread if there is one; generators run in the caller's thread.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from pyspark_theflash.base.errors import (
    EngineError,
    InternalError,
    LatchLostError,
    StaleTokenError,
    TheFlashError,
)
from pyspark_theflash.storage.engine.api import CompactionReport, Piece

_T = TypeVar("_T")
Pieces: TypeAlias = Generator[Piece, CompactionReport, _T]
"""Generator that yields pieces, receives the report of each, and returns a result."""
FINAL_ERRORS: Final = (EngineError, InternalError, LatchLostError, StaleTokenError)
"""Errors after which the writer must stop: its engine or its latch is lost."""


@dataclass(eq=False, slots=True)
class Work:
    """Pieces, with callbacks for their result. `id` is that of the command that requested it."""

    pieces: Pieces[str]
    done: Callable[[str], None]
    failed: Callable[[TheFlashError], None]
    id: str | None = None
    last: Future[CompactionReport] | None = None
    """The last piece started."""


class WorkQueue:
    """Work of one store."""

    def __init__(self, thread: Executor | None) -> None:
        """Run pieces in `thread`, one at a time; None runs them in the caller's thread."""
        self._thread = thread
        self._waiting, self._running = deque[Work](), list[Work]()

    @property
    def command_ids(self) -> set[str]:
        """Ids of the commands in the queue."""
        return {work.id for work in (*self._running, *self._waiting) if work.id is not None}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, work: Work) -> None:
        """Append work, to be executed by calls of `run_next`."""
        self._waiting.append(work)

    def run_next(self) -> None:
        """Start the next piece, unless one is running."""
        for work in self._running:
            if work.last is not None and not work.last.done():
                return
        self._waiting += self._running
        self._running = []
        while self._waiting and not self._running:
            work = self._waiting.popleft()
            # Created right before it runs, since other pieces may change its table until then.
            if (piece := self.next_piece(work)) is not None:
                self._running = [work]
                work.last = _run(piece, self._thread)

    def wait(self) -> None:
        """Wait for the running piece, then start the next one."""
        for work in self._running:
            if work.last is not None:
                work.last.exception()
        self.run_next()

    def next_piece(self, work: Work) -> Piece | None:
        """Return the next piece of a work; None, after calling its callback, if it has ended.

        Raises one of `FINAL_ERRORS` if the work failed with it.
        """
        try:
            return _advance(work.pieces, work.last)
        except StopIteration as ended:
            work.done(ended.value)
        except TheFlashError as error:
            work.failed(error)
            if isinstance(error, FINAL_ERRORS):
                raise
        return None


def run_all(pieces: Pieces[_T]) -> _T:
    """Run all pieces in the caller's thread and return the generator's result."""
    last = None
    try:
        while True:
            last = _run(_advance(pieces, last), None)
    except StopIteration as stopped:
        result: _T = stopped.value
        return result


def _run(piece: Piece, thread: Executor | None) -> Future[CompactionReport]:
    if thread is not None:
        return thread.submit(piece)
    done: Future[CompactionReport] = Future()
    try:
        done.set_result(piece())
    except TheFlashError as error:
        done.set_exception(error)
    return done


def _advance(pieces: Pieces[_T], last: Future[CompactionReport] | None) -> Piece:
    """Return the piece after `last`; raises `StopIteration` at the end."""
    if last is None:
        return next(pieces)
    if (error := last.exception()) is not None:
        return pieces.throw(error)
    return pieces.send(last.result())
