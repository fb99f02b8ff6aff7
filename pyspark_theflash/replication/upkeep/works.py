"""What is done in pieces, one after the other: works take turns, a piece each.

A work is a generator. It hands out a piece, is sent what the piece has come to or thrown its error,
and hands out the next one. Only pieces run in the thread, where there is one; generators run in the
caller's.
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
"""What hands out one piece after the other, and is told what each has come to."""
FINAL_ERRORS: Final = (EngineError, InternalError, LatchLostError, StaleTokenError)
"""After one of these the writer must not go on: its engine or its latch is lost."""


@dataclass(eq=False, slots=True)
class Work:
    """Pieces, and who is told what they come to. `id`: of the command that asks for it."""

    pieces: Pieces[str]
    done: Callable[[str], None]
    failed: Callable[[TheFlashError], None]
    id: str | None = None
    last: Future[CompactionReport] | None = None
    """The last piece."""


class Works:
    """All works of one store."""

    def __init__(self, thread: Executor | None) -> None:
        """Pieces run in `thread`, one at a time; None: in the caller's."""
        self._thread = thread
        self._waiting, self._running = deque[Work](), list[Work]()

    @property
    def ids(self) -> set[str]:
        """The commands that are being worked on."""
        return {work.id for work in (*self._running, *self._waiting) if work.id is not None}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, work: Work) -> None:
        """Have it done as `go_on` is called."""
        self._waiting.append(work)

    def go_on(self) -> None:
        """Run the next piece, unless one is running."""
        for work in self._running:
            if work.last is not None and not work.last.done():
                return
        self._waiting += self._running
        self._running = []
        while self._waiting and not self._running:
            work = self._waiting.popleft()
            # It is begun right before it runs: until then, other pieces change its table.
            if (piece := self.next_piece(work)) is not None:
                self._running = [work]
                work.last = _run(piece, self._thread)

    def wait(self) -> None:
        """The same, after the running piece."""
        for work in self._running:
            if work.last is not None:
                work.last.exception()
        self.go_on()

    def next_piece(self, work: Work) -> Piece | None:
        """The next piece of a work; None where it has ended, which is told.

        Raises one of `FINAL_ERRORS` if it has ended with one.
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


def ended(pieces: Pieces[_T]) -> _T:
    """What pieces come to that are done at once."""
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
    """The next piece after `last`. Raises `StopIteration` where there is none."""
    if last is None:
        return next(pieces)
    if (error := last.exception()) is not None:
        return pieces.throw(error)
    return pieces.send(last.result())
