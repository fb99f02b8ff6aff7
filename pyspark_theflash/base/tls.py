"""TLS certificates and keys, configured as files like in TiDB's components."""

import logging
import ssl
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.fs import file_stamp

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """Content of the files, in PEM; never shown."""

    ca: bytes = field(repr=False)
    cert: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """CA certificates (`ca`) and own certificate (`cert`, `key`), which is required for a server.

    The files are read when a server or a connection is opened, so certificates can be renewed.
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = field(default=None, repr=False)

    def read(self) -> TlsMaterial:
        """Read the files.

        Raises:
            OptionError: A file cannot be read, or only one of `cert` and `key` is set.
        """
        if (self.cert is None) != (self.key is None):
            raise OptionError("tls", "a certificate and its key must be given together")
        cert, key = (None if path is None else _read(path) for path in (self.cert, self.key))
        return TlsMaterial(_read(self.ca), cert, key)


def client_context(tls: TlsFiles | TlsMaterial) -> ssl.SSLContext:
    """Return the SSL context of a client, which verifies the server's certificate and host name.

    Raises:
        OptionError: A certificate is invalid, or the key does not match it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(tls, TlsFiles):
        _load(context, tls.cert, tls.key, tls.ca)
    else:
        _load_material(context, tls)
    return context


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Certificate of a server; with `ca`, client certificates signed by it are required."""

    cert: Path
    key: Path = field(repr=False)
    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the SSL context for accepted connections. Raises `OptionError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Session resumption is off, so that every connection presents a certificate.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        _load(context, self.cert, self.key, self.ca)
        return context

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return the PEM content of certificate, key and CA. Raises `OptionError` as `context`."""
        self.context()  # validates the files
        return _read(self.cert), _read(self.key), None if self.ca is None else _read(self.ca)


class Certificates:
    """A server's certificates, which are read again when a file changes. Thread-safe.

    Files that cannot be used, as in the middle of a renewal, are logged, and the earlier content
    remains in use.
    """

    def __init__(self, tls: ServerTls) -> None:
        """Raises `OptionError`: see `ServerTls.context`."""
        self._tls, self._mutex = tls, threading.Lock()
        self._stamps = self._current_stamps()
        self._context, self._content = tls.context(), tls.read()

    def context(self) -> ssl.SSLContext:
        """Return the SSL context for the next connection."""
        self._read_again()
        return self._context

    def content(self) -> tuple[bytes, bytes, bytes | None]:
        """Return the PEM content of certificate, key and CA."""
        self._read_again()
        return self._content

    def _read_again(self) -> None:
        with self._mutex:
            stamps = self._current_stamps()
            if stamps == self._stamps:
                return
            self._stamps = stamps
            try:
                self._context, self._content = self._tls.context(), self._tls.read()
            except OptionError as error:
                _log.error("the earlier certificates remain in use: %s", error)
            else:
                _log.info("certificates were read again: %s", self._tls.cert)

    def _current_stamps(self) -> list[object]:
        paths = (self._tls.cert, self._tls.key, self._tls.ca)
        try:
            return [file_stamp(path) for path in paths if path is not None]
        except OSError:
            return []  # reading the files reports the error


def _load(context: ssl.SSLContext, cert: Path | None, key: Path | None, ca: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if (cert is None) != (key is None):
        raise OptionError("tls", "a certificate and its key must be given together")
    try:
        if ca is not None:
            context.load_verify_locations(ca)
        if cert is not None:
            # The empty password prevents a prompt on the terminal for an encrypted key.
            context.load_cert_chain(cert, key, password="")
    except OSError as error:  # includes ssl.SSLError
        files = ", ".join(str(path) for path in (ca, cert, key) if path is not None)
        raise OptionError("tls", f"cannot use {files}: {error.strerror or error}") from error


def _load_material(context: ssl.SSLContext, tls: TlsMaterial) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=tls.ca.decode("ascii"))
        if tls.cert is not None and tls.key is not None:
            # Python loads these from files only. The temporary file has mode 0600.
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
