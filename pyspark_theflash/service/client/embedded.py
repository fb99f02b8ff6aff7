"""A private engine process for a store on this machine, started on demand.

The first client starts `theflash serve STORE` on a unix socket that only its user can open; later
clients use the same process. It ends after a time without connections. If it has ended or was
killed, the next call starts it again. It opens no TCP port.

The socket is in the store's folder. If its path is too long for an address, or the folder is not
writable, it is in a private folder of the user's (`private_folder`).
"""

import contextlib
import hashlib
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock, Deadline, SystemClock
from pyspark_theflash.base.errors import OptionError, ServiceUnavailableError
from pyspark_theflash.base.process import start_module
from pyspark_theflash.net.address import PATH_BYTES_MAX, UNIX, check_folder
from pyspark_theflash.service.client.connection import Connection
from pyspark_theflash.service.client.remote import RemoteTransport

if TYPE_CHECKING:
    from pyspark_theflash.service.client.theflash import TheFlash

SOCKET: Final = "serve.sock"
IDLE_MS: Final = 60_000
START_MS: Final = 30_000
_POLL_MS: Final = 20
_OUTPUT_BYTES: Final = 2000


def connect_embedded(
    store: Path,
    *,
    clock: Clock | None = None,
    idle_ms: int = IDLE_MS,
    workers: int | None = None,
    limits: Sequence[str] = (),
) -> "TheFlash":
    """Open a store through its engine process, which the first call starts if necessary.

    Args:
        store: The store's folder.
        clock: The clock of timeouts; None: the system's.
        idle_ms: How long the process runs without connections, if it is started here.
        workers: Its number of workers, if it is started here; None: the default of `theflash
            serve`.
        limits: Its limits, NAME=N, if it is started here; others have their defaults.

    Returns:
        The store. Its calls raise `ServiceUnavailableError`, with the process's output, if the
        process does not start.

    Raises:
        OptionError: The socket's folder can be changed by other users.
    """
    # Imports the modules that read stores, which clients that only start the process do not need.
    from pyspark_theflash.service.client.theflash import TheFlash

    return TheFlash(EmbeddedTransport(store, clock or SystemClock(), idle_ms, workers, limits))


def socket_path(store: Path) -> Path:
    """Return the path of the socket of a store's engine process, after creating its folder.

    Raises:
        OptionError: The user has no private folder; see `private_folder`.
    """
    store = store.resolve()
    inside = store / SOCKET
    if len(os.fsencode(inside)) <= PATH_BYTES_MAX and os.access(store, os.W_OK):
        return inside
    name = hashlib.sha256(os.fsencode(store)).hexdigest()[:24]
    return private_folder() / f"{name}.sock"


def private_folder() -> Path:
    """Return the first folder for sockets that belongs to this user alone, created if missing.

    All processes of a user find the same one, as others can neither create nor replace it: the
    folder for temporary files is used only where the name is free.

    Raises:
        OptionError: There is none.
    """
    user, home = os.geteuid(), Path.home()
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}"
    parents = (Path(runtime), Path(tempfile.gettempdir()))
    folders = [*(parent / f"theflash-{user}" for parent in parents), home / ".theflash"]
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700)
        with contextlib.suppress(OSError):
            status = folder.lstat()  # not what a symbolic link of another user leads to
            if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o77:
                return folder
    shown = ", ".join(map(str, folders))
    raise OptionError("listen", f"none of {shown} is a folder of this user with mode 0700")


class EmbeddedTransport(RemoteTransport):
    """A transport that starts the engine process if it cannot connect."""

    def __init__(
        self,
        store: Path,
        clock: Clock,
        idle_ms: int,
        workers: int | None = None,
        limits: Sequence[str] = (),
    ) -> None:
        """See `connect_embedded`."""
        self._store, self._idle_ms, self._workers = store, idle_ms, workers
        self._limits = [part for limit in limits for part in ("--limit", limit)]
        path = socket_path(store)
        check_folder(path.parent)
        super().__init__(f"{UNIX}{path}", clock=clock)

    def _opened(self) -> Connection:
        try:
            return super()._opened()
        except ServiceUnavailableError:
            return self._started()

    def _started(self) -> Connection:
        """Connect to a process started here, or by another client in the meantime."""
        deadline = Deadline(self._clock, START_MS)
        with tempfile.TemporaryFile() as output:
            process = self._start(output.fileno())
            while True:
                has_ended = process.poll() is not None
                try:
                    return super()._opened()
                except ServiceUnavailableError:
                    if has_ended or not deadline.left_ms():
                        output.seek(0)
                        text = output.read(_OUTPUT_BYTES).decode("utf-8", "replace")
                        reason = f"the engine process did not start: {' '.join(text.split())}"
                        raise ServiceUnavailableError(self._address, reason) from None
                self._clock.sleep_ms(_POLL_MS)

    def _start(self, output: int) -> "subprocess.Popen[bytes]":
        arguments = ["serve", str(self._store.resolve()), "--listen", self._address]
        arguments += ["--idle", str(self._idle_ms / 1000), *self._limits]
        if self._workers is not None:
            arguments += ["--workers", str(self._workers)]
        process = start_module(
            "pyspark_theflash.cli.main",
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # It continues after this process and after a Ctrl-C in its terminal.
            start_new_session=True,
        )
        threading.Thread(target=process.wait, name="reap", daemon=True).start()
        return process
