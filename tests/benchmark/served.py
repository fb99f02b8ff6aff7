"""Servers in separate processes, whose processor time is measured while they answer."""

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

_SPAWN = multiprocessing.get_context("spawn")


class Served:
    """A server in a separate process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.address: str = pipe.recv()

    def cpu_s(self) -> float:
        """The processor time that it has used."""
        self._pipe.send(None)
        return float(self._pipe.recv())


@contextmanager
def serving(serve: Callable[[Connection, Path], None], folder: Path) -> Iterator[Served]:
    """The process of `serve`, which calls `tell`."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=serve, args=(theirs, folder))
    process.start()
    try:
        yield Served(ours)
    finally:
        ours.close()
        theirs.close()
        process.join()


def tell(pipe: Connection, address: str) -> None:
    """Send the address, then the processor time for each request, until the pipe is closed."""
    pipe.send(address)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(used.ru_utime + used.ru_stime)
