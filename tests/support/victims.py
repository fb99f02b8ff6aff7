"""Writers in separate processes, to be killed.

They are forked from one process that has imported everything, which takes some milliseconds
instead of a second, so that a test can start hundreds of them.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import closing
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import Generation
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication import writer
from pyspark_theflash.replication.apply import applier
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.service.client.remote_engine import RemoteEngine
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.engine.magic import engine as magic
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile
from pyspark_theflash.storage.engine.magic.layout import RETIRED_KIND
from pyspark_theflash.storage.store.folder import DATA_FOLDER, read_identity
from pyspark_theflash.storage.store.manifest import ACK, SCRATCH_ACK
from pyspark_theflash.storage.store.writer_lock import LOCK_FILE

SMALL: Final = CompactionLimits(
    region_rows=300,
    direct_rows=100,
    deltas=3,
    most_deltas=8,
    layer_rows=30,
    layers=3,
    commit_rows=1200,
)
_FS, _CLOCK = LocalFileSystem(), SystemClock()
_context = multiprocessing.get_context("forkserver")
# pyarrow imports pandas, where it is installed, when it first makes an array.
_context.set_forkserver_preload([__name__, "pyspark_theflash.replication.pump.server", "pandas"])


class Victim:
    """A process that runs `target(*arguments)` from construction on."""

    def __init__(self, target: Callable[..., object], *arguments: object) -> None:
        receiver, sender = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_run, args=(sender, target, arguments), daemon=True)
        self._process.start()
        sender.close()
        with contextlib.suppress(EOFError):
            receiver.recv()  # it has begun
        receiver.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    def kill_after(self, duration_ms: float, typed: Collection[int] = ()) -> bool:
        """Kill it after a time, unless it ends earlier; return whether it was killed.

        Raises `AssertionError` if it has failed, with none of the statuses `typed`.
        """
        self._process.join(duration_ms / 1000)
        self._process.kill()
        self._process.join()
        assert self._process.exitcode in (0, -signal.SIGKILL, *typed), self._process.exitcode
        return self._process.exitcode != 0

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def exit_code(self) -> int | None:
        """Wait for its end; return the status, None if it does not end."""
        self._process.join(600)
        return self._process.exitcode

    def join(self) -> None:
        """Wait for its end, and check that it has succeeded."""
        code = self.exit_code()
        assert code == 0, code


def _run(started: Connection, target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    started.close()
    target(*arguments)


def run_command(arguments: list[str]) -> None:
    """A victim's target: a command line of `theflash`, whose output is discarded."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        status = main(arguments)
    sys.exit(status)


def run_writer(arguments: list[str], acknowledged: Path, gather_bytes: int | None) -> None:
    """A victim's target: a writer that records in a file each generation reported as durable.

    With `gather_bytes` it publishes, compacts and divides often.
    """
    _note_generations(acknowledged)
    if gather_bytes is not None:
        small_steps(gather_bytes)
    run_command(["writer", *arguments])


def run_doomed_writer(
    arguments: list[str], acknowledged: Path, gather_bytes: int, point: str, calls: int
) -> None:
    """A victim's target: the same, killed at a given call of `point`.

    `point` is the name of a thread, a colon, and that of a fail point.
    """
    thread, name = point.split(":")
    left = count(calls - 1, -1)

    def die() -> None:
        if threading.current_thread().name.startswith(thread) and not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    with armed(name, die):
        run_writer(arguments, acknowledged, gather_bytes)


def small_steps(gather_bytes: int) -> None:
    """Make writers of this process publish, compact and divide often, permanently."""
    for module, name, value in (
        (writer, "GATHER_BYTES", gather_bytes),
        (applier, "BATCH_BYTES", gather_bytes // 2),
        (
            magic,
            "CompactionLimits",
            partial(CompactionLimits, **{f: getattr(SMALL, f) for f in SMALL.__slots__}),
        ),
    ):
        patch.object(module, name, value).start()
    patch.dict(Spool.__init__.__kwdefaults__ or {}, file_bytes=5 * gather_bytes).start()


def _note_generations(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for kind in (magic.MagicEngine, RemoteEngine):
        patch.object(kind, "publish", _noting(kind.publish, fd)).start()


def _noting(publish: Callable[..., Generation], fd: int) -> Callable[..., Generation]:
    def noted(engine: object, publication: Publication) -> Generation:
        generation = publish(engine, publication)
        os.write(fd, f"{generation}\n".encode())
        return generation

    return noted


def traces(store: Path) -> Counter[str]:
    """Count the unfinished operations that a killed writer has left."""
    with closing(registry.open_reader(store, read_identity(store, _FS), _FS, _CLOCK)) as reader:
        view = reader.read([RETIRED_KIND])
    unnamed = files_on_disk(store) - files_in_manifest(store)
    acknowledged = int.from_bytes((store / ACK).read_bytes()[:8], "little")
    return Counter(
        {
            "died with the writer's lock": int((store / LOCK_FILE).stat().st_size > 0),
            "files without a commit": int(bool(unnamed)),
            "an ack without a commit": int(
                (store / SCRATCH_ACK).exists() and view.generation == acknowledged
            ),
            "a commit without an ack": int(view.generation > acknowledged),
            "retired files": int(bool(view.of_kind(RETIRED_KIND))),
        }
    )


def files_on_disk(store: Path) -> set[str]:
    """Return the data files on disk."""
    data = store / DATA_FOLDER
    return {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file()}


def files_in_manifest(store: Path) -> set[str]:
    """Return the data files in the manifest, including retired ones."""
    with closing(registry.open_reader(store, read_identity(store, _FS), _FS, _CLOCK)) as reader:
        view = reader.read([FILE_KIND, RETIRED_KIND])
    named = {DataFile.from_json(body).path for body in view.of_kind(FILE_KIND).values()}
    return named | set(view.of_kind(RETIRED_KIND))
