"""Certificates and keys for connections, given as files as TiDB's components take them."""

import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from pyspark_theflash.base.errors import OptionError


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """The content of the files, PEM. Nothing of it is shown."""

    ca: bytes = field(repr=False)
    cert: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Whom to trust (`ca`), and who we are (`cert` with its `key`), which a server must say.

    Read when a server or a connection is opened, so that certificates can be renewed.
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = field(default=None, repr=False)

    def read(self) -> TlsMaterial:
        """The files' content.

        Raises:
            OptionError: a file cannot be read, or of `cert` and `key` only one is given.
        """
        if (self.cert is None) != (self.key is None):
            raise OptionError("tls", "a certificate and its key are given together")
        cert, key = (None if path is None else _read(path) for path in (self.cert, self.key))
        return TlsMaterial(_read(self.ca), cert, key)


def client_context(tls: TlsFiles | TlsMaterial) -> ssl.SSLContext:
    """For connections to servers that `tls` trusts, whose names are checked.

    Raises:
        OptionError: there are no certificates, or a key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(tls, TlsFiles):
        _load(context, tls.cert, tls.key, tls.ca)
    else:
        _load_material(context, tls)
    return context


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server shows; with `ca`, callers show a certificate that it has signed."""

    cert: Path
    key: Path = field(repr=False)
    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """For connections that are taken.

        Raises:
            OptionError: the files are no certificates, or the key is not the certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Who comes back shows its certificate again.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        _load(context, self.cert, self.key, self.ca)
        return context

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """The files' content, as text in PEM: certificate, key, authority. Raises `OptionError`."""
        self.context()  # which says what is wrong with them
        return _read(self.cert), _read(self.key), None if self.ca is None else _read(self.ca)


def _load(context: ssl.SSLContext, cert: Path | None, key: Path | None, ca: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if (cert is None) != (key is None):
        raise OptionError("tls", "a certificate and its key are given together")
    try:
        if ca is not None:
            context.load_verify_locations(ca)
        if cert is not None:
            # An encrypted key would be asked for on the terminal.
            context.load_cert_chain(cert, key, password="")
    except OSError as error:  # which ssl.SSLError is, too
        files = ", ".join(str(path) for path in (ca, cert, key) if path is not None)
        raise OptionError("tls", f"cannot use {files}: {error.strerror or error}") from error


def _load_material(context: ssl.SSLContext, tls: TlsMaterial) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=tls.ca.decode("ascii"))
        if tls.cert is not None and tls.key is not None:
            # Python takes these from a file only; nobody else can read it.
            with tempfile.NamedTemporaryFile() as file:
                file.write(tls.cert + b"\n" + tls.key)
                file.flush()
                context.load_cert_chain(file.name, password="")
    except (OSError, ValueError) as error:
        raise OptionError("tls", "cannot use these certificates and this key") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError("tls", f"cannot read {path}: {error.strerror}") from error
