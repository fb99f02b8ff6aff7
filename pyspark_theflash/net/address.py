"""Where a server is: `unix:PATH` or `HOST:PORT`, which users write as `theflash://HOST:PORT`."""

import os
import stat
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import OptionError

UNIX: Final = "unix:"
SCHEME: Final = "theflash://"
# What fits into a socket's address, its end included.
PATH_BYTES_MAX: Final = 107


def is_address(place: str) -> bool:
    """Whether a store's place is a server's address, as users write it, and no folder."""
    return place.startswith((SCHEME, UNIX))


def is_host_port(address: str) -> bool:
    """Whether an address is of the form HOST:PORT; whether there is such a host is not known."""
    host, _, port = address.rpartition(":")
    if not (host.isascii() and host.isprintable() and port.isascii() and port.isdigit()):
        return False
    return bool(host) and "/" not in host and len(port) <= 5 and int(port) < 1 << 16


def split_host_port(address: str) -> tuple[str, int]:
    """Host, without an IPv6 address's brackets, and port of a HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def check_folder(folder: Path) -> None:
    """Raise `OptionError` unless nobody else could put a socket of theirs in the place of ours."""
    try:
        status = folder.stat()
    except OSError as error:
        raise OptionError("listen", f"cannot use {folder}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OptionError("listen", f"{folder} must be ours, and nobody else may write to it")
