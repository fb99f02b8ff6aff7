"""Server addresses: `unix:PATH` or `HOST:PORT`, which users write as `theflash://HOST:PORT`."""

import os
import stat
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import OptionError

UNIX: Final = "unix:"
SCHEME: Final = "theflash://"
# Capacity of a unix socket address without its terminating zero.
PATH_BYTES_MAX: Final = 107


def is_address(place: str) -> bool:
    """Return whether the location of a store is a server address and not a folder."""
    return place.startswith((SCHEME, UNIX))


def is_host_port(address: str) -> bool:
    """Return whether an address has the form HOST:PORT; the host is not looked up."""
    host, _, port = address.rpartition(":")
    if not (host.isascii() and host.isprintable() and port.isascii() and port.isdigit()):
        return False
    return bool(host) and "/" not in host and len(port) <= 5 and int(port) < 1 << 16


def split_host_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT into the host, without the brackets of an IPv6 address, and the port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def check_folder(folder: Path) -> None:
    """Raise `OptionError` if another user could replace a socket in `folder`."""
    try:
        status = folder.stat()
    except OSError as error:
        raise OptionError("listen", f"cannot use {folder}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OptionError("listen", f"{folder} must be owned by this user, not writable by others")
