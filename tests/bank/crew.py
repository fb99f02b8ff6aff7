"""Threads that work until they are stopped, or one of them fails."""

import threading
from collections.abc import Callable


class Crew:
    """A context manager: leaving it ends all, and raises what one of them failed of."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()
        self.check()

    def start(self, work: Callable[[threading.Event], None]) -> None:
        """Do this in a thread; it looks at the event, and ends soon after that is set."""
        thread = threading.Thread(target=self._do, args=(work,), name=repr(work))
        self._threads.append(thread)
        thread.start()

    def check(self) -> None:
        """Raise what one of them failed of."""
        if self._failures:
            raise RuntimeError("a thread has failed") from self._failures[0]

    def _do(self, work: Callable[[threading.Event], None]) -> None:
        try:
            work(self.over)
        except BaseException as error:  # noqa: BLE001 (raised by `check`)
            self._failures.append(error)
            self.over.set()
