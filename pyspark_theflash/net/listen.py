"""Listening addresses of gRPC servers of TiDB's cluster, restricted to authenticated callers.

unix:PATH     a socket of mode 0600, in a folder of this user that others cannot write to
HOST:PORT     clients need a certificate with an allowed common name; without certificates only if
              the user requests it (`--insecure`), and then on the loopback interface

Certificates are read again when their files change, so they can be renewed without a restart.
"""

import logging
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.tls import Certificates, ServerTls
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.net.bind import make_way, private_sockets
from pyspark_theflash.net.channel import IDENTITY_ONLY, grpc

_PENDING_MAX: Final = 8_192
COMMON_OPTIONS: Final = (
    *IDENTITY_ONLY,
    # Of a message that the server has not requested yet.
    ("grpc.http2.lookahead_bytes", 1 << 16),
    ("grpc.http2.bdp_probe", 0),
    # Calls of about 7 KB that wait until they are handled. Above that number, gRPC drops calls,
    # anyone's, with the status CANCELLED; by default above 1,000, at random.
    ("grpc.server.max_pending_requests", _PENDING_MAX),
    ("grpc.server.max_pending_requests_hard_limit", _PENDING_MAX),
    # Answer pings. By default a third one closes the connection, and while that waits, each
    # further one adds its error to those before, in quadratic time.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)
"""Options of all gRPC servers."""
_OPTION: Final = "listen"
_HANDSHAKE_MS: Final = 10_000
_log = logging.getLogger(__name__)


def server_options(max_message_bytes: int, max_streams: int) -> list[tuple[str, int]]:
    """Return the options of a gRPC server with bounded buffers.

    A message above the limit is rejected by its length with RESOURCE_EXHAUSTED. A compressed one is
    rejected with UNIMPLEMENTED. A connection has up to `max_streams` calls at the same time;
    further ones wait at the client.
    """
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", max_streams),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        *COMMON_OPTIONS,
    ]


def listen(server: grpc.Server, address: str, access: Access) -> str:
    """Bind `server`; return the address with the port that was chosen for port 0.

    Raises:
        OptionError: The address is invalid, in use, or not safe to listen on.
    """
    access.check(address)
    tls = access.tls
    if tls is None or tls.cert is None or tls.key is None:
        if access.is_insecure:
            _log.warning("any user of this machine can connect to %s and write data", address)
        return bind_server(server, address, None)
    return bind_server(server, address, server_credentials(ServerTls(tls.cert, tls.key, tls.ca)))


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Return credentials whose certificates are read again when their files change.

    Raises:
        OptionError: A certificate is invalid, or the key does not match it.
    """
    certificates = Certificates(tls)
    last = certificates.content()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        before, last = last, certificates.content()
        return None if last == before else _configuration(last)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(last), renewed, require_client_authentication=tls.ca is not None
    )


def _configuration(
    material: tuple[bytes, bytes, bytes | None],
) -> grpc.ServerCertificateConfiguration:
    cert, key, ca = material
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)


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
