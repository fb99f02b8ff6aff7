"""Sockets that are safe to listen on.

unix:PATH     a socket of mode 0600, in a folder that is ours and that others cannot write to: who
              can open it may do everything, unless there are tokens
HOST:PORT     with tokens; of this machine only, unless there are certificates too
"""

import contextlib
import fcntl
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.address import (
    PATH_BYTES_MAX,
    UNIX,
    check_folder,
    is_host_port,
    split_host_port,
)

_OPTION: Final = "listen"
_BACKLOG: Final = 128


def check_safe(address: str, *, has_tls: bool, has_tokens: bool) -> None:
    """Raise `OptionError` unless only those can come in at `address` who show who they are."""
    if address.startswith(UNIX):
        if has_tls:
            raise OptionError(_OPTION, "a unix socket takes no certificates")
        return
    if not is_host_port(address):
        raise OptionError(_OPTION, f"{address!r} is not of the form HOST:PORT or unix:PATH")
    host, _ = split_host_port(address)
    if not has_tokens:
        raise OptionError(_OPTION, f"{address} is open to everybody on a machine: give tokens")
    if not has_tls and not is_loopback(host):
        reason = f"{host} is open to other machines: give certificates, or listen on 127.0.0.1"
        raise OptionError(_OPTION, reason)


def check_names(allowed: Sequence[str], tls: ServerTls | None) -> None:
    """Raise `OptionError` where names of callers are wanted that nobody shows."""
    if allowed and (tls is None or tls.ca is None):
        raise OptionError("allow", "names are in callers' certificates: give --ca")


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A listening socket, and its address with the port that was chosen for port 0."""

    sock: socket.socket
    address: str
    inode: int | None = None
    """Of a unix socket: what is at its path is ours only if it is this."""

    def close(self) -> None:
        """Listen no more."""
        self.sock.close()
        if self.inode is not None:
            path = Path(self.address.removeprefix(UNIX))
            with _folder_locked(path.parent), contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == self.inode:
                    path.unlink()


def bind(address: str) -> BoundSocket:
    """Listen on an address that `check_safe` has let pass.

    Raises:
        OptionError: the address is taken or is not one of ours.
    """
    if address.startswith(UNIX):
        return _bind_unix(Path(address.removeprefix(UNIX)).absolute())
    host, port = split_host_port(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        sock = socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OptionError(_OPTION, f"cannot listen on {address}: {error.strerror}") from error
    return BoundSocket(sock, f"{address.rpartition(':')[0]}:{sock.getsockname()[1]}")


def make_way(path: Path) -> None:
    """Check that a unix socket may be made at `path`, and remove one that nobody listens on.

    Raises:
        OptionError: it may not.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise OptionError(_OPTION, f"{path} is longer than the {PATH_BYTES_MAX} bytes of a socket")
    check_folder(path.parent)
    _remove_stale(path)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _bind_unix(path: Path) -> BoundSocket:
    check_folder(path.parent)
    # Of several that begin at once, each must see what the one before has made.
    with _folder_locked(path.parent):
        make_way(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The socket must not be open to others for a moment.
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
            sock.listen(_BACKLOG)
            return BoundSocket(sock, f"{UNIX}{path}", path.stat().st_ino)
        except OSError as error:
            sock.close()
            raise OptionError(_OPTION, f"cannot listen on {path}: {error.strerror}") from error
        finally:
            os.umask(mask)


@contextlib.contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: Path) -> None:
    """Make way for a new socket, but not in the place of one that is in use."""
    if not path.is_socket():
        if path.exists():
            raise OptionError(_OPTION, f"{path} is there already, and is no socket")
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise OptionError(_OPTION, f"cannot use {path}: {error.strerror}") from error
    raise OptionError(_OPTION, f"another process listens on {path}")
