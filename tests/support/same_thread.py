"""An `EngineThread` without a thread."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pyspark_theflash.storage.engine.api import Engine

T = TypeVar("T")


class SameThread:
    """Executes work in the caller's thread, before `run` returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, work: Callable[[Engine], T]) -> "Future[T]":
        done: Future[T] = Future()
        try:
            done.set_result(work(self._engine))
        except BaseException as error:
            done.set_exception(error)
            if not isinstance(error, Exception):
                raise
        return done

    def close(self) -> None:
        """Do nothing: the caller owns the engine."""
