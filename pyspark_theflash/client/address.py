"""Where a server is: `unix:PATH` or `HOST:PORT`."""

from typing import Final

UNIX: Final = "unix:"


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
