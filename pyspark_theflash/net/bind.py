"""Listening sockets with access control.

unix:PATH     a socket of mode 0600, in a folder of this user that others cannot write to; a process
              that can open it has full access, unless there are tokens
HOST:PORT     requires tokens; on the loopback interface only, unless there are certificates too
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
    """Raise `OptionError` unless callers must authenticate to connect to `address`."""
    if address.startswith(UNIX):
        if has_tls:
            raise OptionError(_OPTION, "a unix socket takes no certificates")
        return
    if not is_host_port(address):
        raise OptionError(_OPTION, f"{address!r} is not of the form HOST:PORT or unix:PATH")
    host, _ = split_host_port(address)
    if not has_tokens:
        raise OptionError(_OPTION, f"{address} is open to all users of a machine: give tokens")
    if not has_tls and not is_loopback(host):
        reason = f"{host} is open to other machines: give certificates, or listen on 127.0.0.1"
        raise OptionError(_OPTION, reason)


def check_names(allowed: Sequence[str], tls: ServerTls | None) -> None:
    """Raise `OptionError` if caller names are required, but client certificates are not."""
    if allowed and (tls is None or tls.ca is None):
        raise OptionError("allow", "names are in callers' certificates: give --ca")


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """Listening socket, and its address with the port that was chosen for port 0."""

    sock: socket.socket
    address: str
    inode: int | None = None
    """Inode of a unix socket, to recognise whether the file at its path is still this socket."""

    def close(self) -> None:
        """Stop listening, and remove a unix socket."""
        self.sock.close()
        if self.inode is not None:
            path = Path(self.address.removeprefix(UNIX))
            with _folder_locked(path.parent), contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == self.inode:
                    path.unlink()


def bind(address: str) -> BoundSocket:
    """Listen on an address that `check_safe` has accepted.

    Raises:
        OptionError: The address is in use or cannot be used.
    """
    if address.startswith(UNIX):
        return _bind_unix(Path(address.removeprefix(UNIX)).absolute())
    host, port = split_host_port(address)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = infos[0]
        sock = socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OptionError(_OPTION, f"cannot listen on {address}: {error.strerror}") from error
    return BoundSocket(sock, f"{address.rpartition(':')[0]}:{sock.getsockname()[1]}")


def make_way(path: Path) -> None:
    """Check that a unix socket can be created at `path`, and remove a stale one.

    Raises:
        OptionError: The path cannot be used, or a process listens on it.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise OptionError(_OPTION, f"{path} exceeds the {PATH_BYTES_MAX} bytes of a socket address")
    check_folder(path.parent)
    _remove_stale(path)


def is_loopback(host: str) -> bool:
    """Return whether a host is reachable from this machine only."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _bind_unix(path: Path) -> BoundSocket:
    check_folder(path.parent)
    # Serialize processes that start at the same time, so that each sees the others' sockets.
    with _folder_locked(path.parent):
        make_way(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with private_sockets():
                sock.bind(str(path))
            sock.listen(_BACKLOG)
            return BoundSocket(sock, f"{UNIX}{path}", path.stat().st_ino)
        except OSError as error:
            sock.close()
            raise OptionError(_OPTION, f"cannot listen on {path}: {error.strerror}") from error


@contextlib.contextmanager
def private_sockets() -> Iterator[None]:
    """Create sockets with mode 0600 within the block, so that others never have access."""
    mask = os.umask(0o177)
    try:
        yield
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
    """Remove an unused socket at `path`; raise if it is in use."""
    if not path.is_socket():
        if path.exists():
            raise OptionError(_OPTION, f"{path} exists and is not a socket")
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
