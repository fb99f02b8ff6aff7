"""Listening addresses of gRPC servers, restricted to authenticated callers.

unix:PATH     a socket of mode 0600, in a folder of this user that others cannot write to
HOST:PORT     on the loopback interface only, unless there are certificates; then clients need one
"""

from pathlib import Path
from typing import Any, Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.tls import Certificates, ServerTls, TlsFiles
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.net.bind import check_safe, make_way, private_sockets
from pyspark_theflash.net.channel import grpc

_OPTION: Final = "listen"


def listen(server: grpc.Server, address: str, tls: TlsFiles | None) -> str:
    """Bind `server`; return the address with the port that was chosen for port 0.

    Raises:
        OptionError: The address is invalid, in use, or not safe to listen on.
    """
    # On the loopback interface, callers of these servers need no token.
    check_safe(address, has_tls=tls is not None, has_tokens=True)
    return bind_server(server, address, None if tls is None else _credentials(tls))


def bind_server(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None
) -> str:
    """Bind `server` to an address that was checked to be safe; return it as `listen` does.

    Raises:
        OptionError: The address is in use.
    """
    place = address.removeprefix(UNIX)
    try:
        if address.startswith(UNIX):
            path = Path(place).absolute()
            make_way(path)
            with private_sockets():
                server.add_insecure_port(f"{UNIX}{path}")
            return f"{UNIX}{path}"
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OptionError(_OPTION, f"cannot listen on {place}: {error}") from error
    return f"{address.rpartition(':')[0]}:{port}"


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    if tls.cert is None or tls.key is None:
        raise OptionError("tls", "a server needs a certificate and its key")
    return server_credentials(ServerTls(tls.cert, tls.key, tls.ca))


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Return credentials whose certificates are read again when their files change.

    Raises:
        OptionError: A certificate is invalid, or the key does not match it.
    """
    certificates = Certificates(tls)
    last = certificates.content()

    def configuration(content: tuple[bytes, bytes, bytes | None]) -> Any:  # noqa: ANN401
        cert, key, ca = content
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    def renewed() -> Any:  # noqa: ANN401 (None: no change)
        nonlocal last
        before, last = last, certificates.content()
        return None if last == before else configuration(last)

    return grpc.dynamic_ssl_server_credentials(
        configuration(last), renewed, require_client_authentication=tls.ca is not None
    )
