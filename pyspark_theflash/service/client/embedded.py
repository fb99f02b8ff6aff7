"""A private engine process for a store of this machine, started when it is needed.

The first user starts `theflash serve STORE` on a unix socket that nobody else can open; others find
it there. It counts its connections and ends when it has had none for a while. One that was killed,
or has just ended, is started anew by the next call. No TCP port is opened.

The socket is in the store's folder, or, where its path would be too long for an address or the
folder cannot be written, in a folder of ours for temporary files.
"""

import contextlib
import hashlib
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import ServiceUnavailableError
from pyspark_theflash.net.address import PATH_BYTES_MAX, UNIX, check_folder
from pyspark_theflash.service.client.process import python_environment, python_module
from pyspark_theflash.service.client.remote import Connection, RemoteTransport

if TYPE_CHECKING:
    from pyspark_theflash.service.client.theflash import TheFlash

SOCKET: Final = "serve.sock"
IDLE_MS: Final = 60_000
START_MS: Final = 30_000
_LOOK_MS: Final = 20
_OUTPUT_BYTES: Final = 2000


def connect_embedded(
    store: Path, *, clock: Clock | None = None, idle_ms: int = IDLE_MS, workers: int | None = None
) -> "TheFlash":
    """The store at `store` through its engine process, which ends `idle_ms` after its last user.

    Whoever starts it says how many `workers` it may have; None: what `theflash serve` takes.

    Raises:
        OptionError: the socket cannot be made safely.
        ServiceUnavailableError: when something is asked, if the process does not start; says why.
    """
    # Brings in all that reads stores, which whoever only starts a process does without.
    from pyspark_theflash.service.client.theflash import TheFlash

    return TheFlash(EmbeddedTransport(store, clock or SystemClock(), idle_ms, workers))


def socket_path(store: Path) -> Path:
    """Where the engine process of a store listens; the same for every user. Makes its folder."""
    store = store.resolve()
    inside = store / SOCKET
    if len(os.fsencode(inside)) <= PATH_BYTES_MAX and os.access(store, os.W_OK):
        return inside
    folder = Path(tempfile.gettempdir()) / f"theflash-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    name = hashlib.sha256(os.fsencode(store)).hexdigest()[:24]
    return folder / f"{name}.sock"


class EmbeddedTransport(RemoteTransport):
    """Starts the process where there is none."""

    def __init__(self, store: Path, clock: Clock, idle_ms: int, workers: int | None = None) -> None:
        """Raises `OptionError`: the socket cannot be made safely."""
        self._store, self._idle_ms, self._workers = store, idle_ms, workers
        path = socket_path(store)
        check_folder(path.parent)
        super().__init__(f"{UNIX}{path}", clock=clock)

    def _opened(self) -> Connection:
        try:
            return super()._opened()
        except ServiceUnavailableError:
            return self._started()

    def _started(self) -> Connection:
        """A connection to a process that is started, here or by somebody else meanwhile."""
        deadline_ms = self._clock.boottime_ms() + START_MS
        with tempfile.TemporaryFile() as output:
            process = self._start(output.fileno())
            while True:
                has_ended = process.poll() is not None
                try:
                    return super()._opened()
                except ServiceUnavailableError:
                    if has_ended or self._clock.boottime_ms() >= deadline_ms:
                        output.seek(0)
                        said = output.read(_OUTPUT_BYTES).decode("utf-8", "replace")
                        reason = f"the engine process did not start: {' '.join(said.split())}"
                        raise ServiceUnavailableError(self._address, reason) from None
                self._clock.sleep_ms(_LOOK_MS)

    def _start(self, output: int) -> "subprocess.Popen[bytes]":
        command = [*python_module("pyspark_theflash.cli.main"), "serve"]
        command += [str(self._store.resolve()), "--listen", self._address]
        command += ["--idle", str(self._idle_ms / 1000)]
        if self._workers is not None:
            command += ["--workers", str(self._workers)]
        process = subprocess.Popen(  # noqa: S603 (our own program, and no shell)
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=python_environment(),
            # It outlives us, and a Ctrl-C that is meant for us.
            start_new_session=True,
        )
        threading.Thread(target=process.wait, name="reap", daemon=True).start()
        return process
