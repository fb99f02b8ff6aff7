"""Certificates and keys for connections, given as files as TiDB's components take them."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from pyspark_theflash.errors import OptionError


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


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For connections to servers that `files` trust, whose names are checked.

    Raises:
        OptionError: the files are no certificates, or a key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, files.cert, files.key, files.ca)
    return context


def server_context(cert: Path, key: Path, ca: Path | None) -> ssl.SSLContext:
    """For a server that shows `cert`; with `ca`, callers show one that it has signed.

    Raises:
        OptionError: the files are no certificates, or the key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Who comes back shows its certificate again, so that one can be taken back.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    _load(context, cert, key, ca)
    return context


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError("tls", f"cannot read {path}: {error.strerror}") from error
