"""Listening addresses of gRPC servers, restricted to authenticated callers.

unix:PATH     a socket of mode 0600, in a folder of this user that others cannot write to
HOST:PORT     on the loopback interface only, unless there are certificates; then clients need one
"""

import os
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.address import UNIX, is_host_port
from pyspark_theflash.net.bind import is_loopback, make_way
from pyspark_theflash.net.channel import grpc

_OPTION: Final = "listen"


def listen(server: grpc.Server, address: str, tls: TlsFiles | None) -> str:
    """Bind `server`; return the address with the port that was chosen for port 0.

    Raises:
        OptionError: The address is invalid, in use, or not safe to listen on.
    """
    if address.startswith(UNIX):
        if tls is not None:
            raise OptionError(_OPTION, "a unix socket takes no certificates")
        return bind_server(server, address, None)
    host = address.rpartition(":")[0]
    if not is_host_port(address):
        raise OptionError(_OPTION, f"{address!r} is not of the form HOST:PORT or unix:PATH")
    if tls is None and not is_loopback(host.strip("[]")):
        reason = f"{host} is open to other machines: give certificates, or listen on 127.0.0.1"
        raise OptionError(_OPTION, reason)
    return bind_server(server, address, None if tls is None else _credentials(tls))


def bind_server(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None
) -> str:
    """Bind `server` to an address that was checked to be safe; return it as `listen` does.

    Raises:
        OptionError: The address is in use.
    """
    if address.startswith(UNIX):
        path = Path(address.removeprefix(UNIX)).absolute()
        _listen_unix(server, path)
        return f"{UNIX}{path}"
    return f"{address.rpartition(':')[0]}:{_listen_tcp(server, address, credentials)}"


def _listen_tcp(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise OptionError(_OPTION, f"cannot listen on {address}: {error}") from error


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    material = tls.read()
    if material.cert is None:
        raise OptionError("tls", "a server needs a certificate and its key")
    pairs = [(material.key, material.cert)]
    return grpc.ssl_server_credentials(pairs, material.ca, require_client_auth=True)


def _listen_unix(server: grpc.Server, path: Path) -> None:
    make_way(path)
    # gRPC creates the socket. Restrict the mode at creation, so that others never have access.
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"{UNIX}{path}")
    except RuntimeError as error:
        raise OptionError(_OPTION, f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(mask)
