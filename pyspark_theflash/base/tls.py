"""TLS certificates and keys, configured as files like in TiDB's components."""

import logging
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.fs import file_stamp

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """Content of the files, in PEM; never shown."""

    ca: bytes = field(repr=False)
    cert: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """CA certificates (`ca`) and own certificate (`cert`, `key`), which is required for a server.

    They are read again when they change, for the next connection of a server or a client, and for
    the next call over a gRPC channel that is kept.
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


class Renewed(Generic[_T]):
    """A value made from files, and made again when one of them changes. Thread-safe.

    Files that cannot be used, as in the middle of a renewal, are logged, and the earlier value
    remains in use.
    """

    def __init__(self, paths: Iterable[Path | None], make: Callable[[], _T]) -> None:
        """Make the value. Raises the `OptionError` of `make`."""
        self._paths = [path for path in paths if path is not None]
        self._make, self._mutex = make, threading.Lock()
        self._stamps = self._current_stamps()
        self._value = make()

    def get(self) -> _T:
        """Return the current value."""
        with self._mutex:
            stamps = self._current_stamps()
            if stamps != self._stamps:
                self._stamps = stamps
                try:
                    self._value = self._make()
                except OptionError as error:
                    _log.error("the earlier certificates remain in use: %s", error)
                else:
                    _log.info("certificates were read again: %s", self._paths[0])
            return self._value

    def _current_stamps(self) -> list[object]:
        try:
            return [file_stamp(path) for path in self._paths]
        except OSError:
            return []  # reading the files reports the error


def client_contexts(tls: TlsFiles | TlsMaterial) -> Callable[[], ssl.SSLContext]:
    """Return a function that returns the SSL context for a client's next connection.

    Raises:
        OptionError: See `client_context`.
    """
    if isinstance(tls, TlsFiles):
        return Renewed((tls.ca, tls.cert, tls.key), lambda: client_context(tls)).get
    context = client_context(tls)
    return lambda: context


class Certificates:
    """A server's certificates, which are read again when a file changes. Thread-safe."""

    def __init__(self, tls: ServerTls) -> None:
        """Raises `OptionError`: see `ServerTls.context`."""
        paths = (tls.cert, tls.key, tls.ca)
        self._files = Renewed(paths, lambda: (tls.context(), tls.read()))

    def context(self) -> ssl.SSLContext:
        """Return the SSL context for the next connection."""
        return self._files.get()[0]

    def content(self) -> tuple[bytes, bytes, bytes | None]:
        """Return the PEM content of certificate, key and CA."""
        return self._files.get()[1]


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
