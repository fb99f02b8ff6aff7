"""Sockets that are safe to listen on.

unix:PATH     a socket of mode 0600, in a folder that is ours and that others cannot write to: who
              can open it may do everything, unless there are tokens
HOST:PORT     with tokens; of this machine only, unless there are certificates too
"""

import contextlib
import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Final

from pyspark_theflash.client.address import UNIX, is_host_port, split_host_port
from pyspark_theflash.errors import OptionError

# What fits into a socket's address, its end included.
PATH_BYTES_MAX: Final = 107
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


def bind(address: str) -> tuple[socket.socket, str]:
    """A listening socket, and its address with the port that was chosen for port 0.

    Raises:
        OptionError: the address is taken or is not one of ours.
    """
    if address.startswith(UNIX):
        path = Path(address.removeprefix(UNIX)).absolute()
        return _bind_unix(path), f"{UNIX}{path}"
    host, port = split_host_port(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listener = socket.create_server(
            found[0][4][:2], family=found[0][0], backlog=_BACKLOG, reuse_port=False
        )
    except OSError as error:
        raise OptionError(_OPTION, f"cannot listen on {address}: {error.strerror}") from error
    return listener, f"{address.rpartition(':')[0]}:{listener.getsockname()[1]}"


def make_way(path: Path) -> None:
    """Check that a unix socket may be made at `path`, and remove one that nobody listens on.

    Raises:
        OptionError: it may not.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise OptionError(_OPTION, f"{path} is longer than the {PATH_BYTES_MAX} bytes of a socket")
    _check_folder(path.parent)
    _remove_stale(path)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _bind_unix(path: Path) -> socket.socket:
    make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The socket must not be open to others for a moment.
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OptionError(_OPTION, f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
    return listener


def _check_folder(folder: Path) -> None:
    """In a folder of others the socket could be replaced by theirs."""
    try:
        status = folder.stat()
    except OSError as error:
        raise OptionError(_OPTION, f"cannot use {folder}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OptionError(_OPTION, f"{folder} must be ours, and nobody else may write to it")


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
