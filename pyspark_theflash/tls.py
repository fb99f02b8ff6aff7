"""Certificates and keys for connections, given as files as TiDB's components take them."""

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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError("tls", f"cannot read {path}: {error.strerror}") from error
