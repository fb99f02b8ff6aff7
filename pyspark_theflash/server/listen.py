"""Where a server may listen: only where nobody comes in who has not shown who he is.

unix:PATH     a socket of mode 0600, in a folder that is ours and that others cannot write to
HOST:PORT     of this machine only, unless there are certificates; then callers show theirs too
"""

import contextlib
import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Final

from pyspark_theflash.client.channel import UNIX, grpc, is_host_port
from pyspark_theflash.errors import OptionError
from pyspark_theflash.tls import TlsFiles

_OPTION: Final = "listen"
# What fits into a socket's address, its end included.
_PATH_BYTES_MAX: Final = 107


def listen(server: grpc.Server, address: str, tls: TlsFiles | None) -> str:
    """Bind `server`; returns the address with the port that was chosen for port 0.

    Raises:
        OptionError: the address is not one, is taken, or is not safe to listen on.
    """
    if address.startswith(UNIX):
        if tls is not None:
            raise OptionError(_OPTION, "a unix socket takes no certificates")
        path = Path(address.removeprefix(UNIX)).absolute()
        _listen_unix(server, path)
        return f"{UNIX}{path}"
    host = address.rpartition(":")[0]
    if not is_host_port(address):
        raise OptionError(_OPTION, f"{address!r} is not of the form HOST:PORT or unix:PATH")
    if tls is None and not _is_loopback(host.strip("[]")):
        reason = f"{host} is open to other machines: give certificates, or listen on 127.0.0.1"
        raise OptionError(_OPTION, reason)
    return f"{host}:{_listen_tcp(server, address, tls)}"


def _listen_tcp(server: grpc.Server, address: str, tls: TlsFiles | None) -> int:
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, _credentials(tls)))
    except RuntimeError as error:
        raise OptionError(_OPTION, f"cannot listen on {address}: {error}") from error


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    material = tls.read()
    if material.cert is None:
        raise OptionError("tls", "a server needs a certificate and its key")
    pairs = [(material.key, material.cert)]
    return grpc.ssl_server_credentials(pairs, material.ca, require_client_auth=True)


def _listen_unix(server: grpc.Server, path: Path) -> None:
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise OptionError(_OPTION, f"{path} is longer than the {_PATH_BYTES_MAX} bytes of a socket")
    _check_folder(path.parent)
    _remove_stale(path)
    # gRPC makes the socket; it must not be open to others for a moment.
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"{UNIX}{path}")
    except RuntimeError as error:
        raise OptionError(_OPTION, f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(mask)


def _check_folder(folder: Path) -> None:
    """In a folder of others the socket could be replaced by theirs."""
    try:
        status = folder.stat()
    except OSError as error:
        raise OptionError(_OPTION, f"cannot use {folder}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OptionError(_OPTION, f"{folder} must be ours, and nobody else may write to it")


def _remove_stale(path: Path) -> None:
    """Make way for a new socket; gRPC would also take the place of one that is in use."""
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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
