"""Certificates that a server must not accept, and servers that a client must not accept."""

import ssl
import subprocess
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyspark_theflash.base.errors import AuthenticationError, TheFlashError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.address import split_host_port
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.wire.message import StatusRequest
from pyspark_theflash.service.wire.method import METHODS, Role
from tests.attack.harness import BreachError, Target, attack, breach_if
from tests.support.raw_peer import dial
from tests.support.tls import FOLDER, tls, trust

_REFUSED = (TheFlashError, grpc.RpcError, pa.ArrowException, OSError)
_TIMEOUT_MS = 5_000
CERTIFICATES: dict[str, TlsFiles | None] = {
    "none": trust(),
    "of another authority": tls("other"),
    "of a name that is not allowed": tls("stranger"),
    "self-signed and expired": tls("expired"),
    "plain text": None,
}


def _status(target: Target, shown: TlsFiles | None) -> Any:
    server = replace(target.server, tls=shown)
    with closing(server.transport(target.protocol, Role.ADMIN)) as transport:
        return transport.call(METHODS["GetStatus"], StatusRequest(), _TIMEOUT_MS)


@attack("mtls")
def certificates_of_clients(target: Target) -> str:
    """Present every kind of certificate, with the token of an administrator."""
    tried = dict(CERTIFICATES, expired=_expired(target.folder))
    for kind, shown in tried.items():
        try:
            _status(target, shown)
        except _REFUSED:
            continue
        raise BreachError(f"a certificate is accepted: {kind}")
    breach_if(_status(target, target.server.tls).resolved_ts is None, "the right one is not")
    return f"{len(tried)} certificates"


def _expired(folder: Path) -> TlsFiles:
    """A certificate of another authority with the allowed name, that has expired."""
    key, cert = folder / "key", folder / "cert"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += ["-nodes", "-subj", "/CN=tidb", "-days", "-1", "-keyout", str(key), "-out", str(cert)]
    done = subprocess.run(make, capture_output=True, check=False)
    if done.returncode:  # openssl 3.2 and later refuse negative days
        return tls("expired")
    return TlsFiles(FOLDER / "ca.pem", cert, key)


@attack("mtls", "tls")
def authorities_of_servers(target: Target) -> str:
    """Stand for the server: a client that trusts another authority must not send its token."""
    shown = target.server.tls
    assert shown is not None
    for ca in ("other-ca", "expired"):
        try:
            _status(target, replace(shown, ca=FOLDER / f"{ca}.pem"))
        except _REFUSED:
            continue
        raise BreachError(f"a client accepts a server of another authority than {ca}")
    return "2 authorities"


@attack("mtls", "tls", over=["frames"])
def names_of_servers(target: Target) -> str:
    """Serve under a name that is not in the certificate."""
    port = target.server.addresses["frames"].rpartition(":")[2]
    for host in ("127.0.0.2", "ip6-localhost"):
        server = replace(target.server, addresses={"frames": f"{host}:{port}"})
        try:
            _status(replace(target, at=server), server.tls)
        except (AuthenticationError, *_REFUSED):
            continue
        raise BreachError(f"a client accepts the certificate for {host}")
    return "2 names"


@attack("mtls", "tls")
def old_protocols(target: Target) -> str:
    """Offer TLS 1.1 and earlier, and ciphers without authentication."""
    shown = target.server.tls
    assert shown is not None
    host, _ = split_host_port(target.server.addresses[target.protocol])
    offers = [
        (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    ]
    offers += [
        (ssl.TLSVersion.TLSv1_2, ciphers) for ciphers in ("aNULL:@SECLEVEL=0", "NULL:@SECLEVEL=0")
    ]
    for version, ciphers in offers:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(FOLDER / "ca.pem")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = version
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            continue  # this OpenSSL does not have them
        with dial(target.server.addresses[target.protocol]) as sock:
            try:
                context.wrap_socket(sock, server_hostname=host).close()
            except OSError:
                continue
        raise BreachError(f"{version.name} with {ciphers} is accepted")
    return f"{len(offers)} offers"
