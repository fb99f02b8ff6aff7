"""The store of a read: a folder or a server, with its credentials as values.

Executors do not have the driver's token and certificate files, so their contents are pickled.
"""

import atexit
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.read_options import (
    SERVER_OPTIONS,
    STORE,
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    TOKEN,
    TOKEN_FILE,
    store_folder,
)
from pyspark_theflash.base.tls import TlsMaterial
from pyspark_theflash.net.address import is_address
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.client.theflash import TheFlash, connect

_FOLDERS_MAX = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Address of a store: a folder, `unix:PATH` or `theflash://HOST:PORT`.

    Picklable; its repr contains no secret.
    """

    address: str
    token: AccessToken | None = None
    tls: TlsMaterial | None = None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> "Place":
        """Return the store that the options of a read name.

        Raises:
            OptionError: There is no store, the token or certificates cannot be read or are
                incomplete, or they are for a server and the store is a folder.
        """
        lowered = {name.lower(): text for name, text in options.items()}
        address = lowered.get(STORE.name, "").strip()
        if is_address(address):
            return cls(address, _token(lowered), _tls(lowered))
        return cls(str(store_folder(lowered).absolute()))

    @property
    def is_folder(self) -> bool:
        """Whether the store is read in this process."""
        return not is_address(self.address)

    def connect(self) -> TheFlash:
        """Open a connection, which the caller closes.

        Raises:
            OptionError: The address or certificates are invalid.
            StoreNotFoundError: There is no store in the folder.
        """
        where = Path(self.address) if self.is_folder else self.address
        return connect(where, token=self.token, tls=self.tls)

    @contextmanager
    def opened(self) -> Iterator[TheFlash]:
        """Open a connection for one task. A folder stays open for later tasks of this process."""
        if self.is_folder:
            yield _opened_folder(self.address)
        else:
            with self.connect() as store:
                yield store


@lru_cache(_FOLDERS_MAX)
def _opened_folder(folder: str) -> TheFlash:
    return connect(Path(folder))


# Otherwise their destructors would run after the interpreter has cleared its modules.
atexit.register(_opened_folder.cache_clear)


def without_secrets(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options except for the server's token and certificates."""
    server_options = {option.name for option in SERVER_OPTIONS}
    return {name: text for name, text in options.items() if name.lower() not in server_options}


def _token(options: Mapping[str, str]) -> AccessToken | None:
    token, file = options.get(TOKEN.name), options.get(TOKEN_FILE.name)
    if token is not None and file is not None:
        raise OptionError(TOKEN_FILE.name, "cannot be given together with token")
    if file is not None:
        try:
            return AccessToken.from_file(Path(file))
        except OptionError as error:
            raise OptionError(TOKEN_FILE.name, error.reason) from error
    return None if token is None else AccessToken(token.strip())


def _tls(options: Mapping[str, str]) -> TlsMaterial | None:
    ca, cert, key = (
        _content(option.name, options.get(option.name)) for option in (TLS_CA, TLS_CERT, TLS_KEY)
    )
    if (cert is None) != (key is None):
        raise OptionError("tls", "a certificate and its key are given together")
    if ca is None:
        if cert is not None:
            raise OptionError(TLS_CA.name, "is missing; tls_cert needs it")
        return None
    return TlsMaterial(ca, cert, key)


def _content(name: str, file: str | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise OptionError(name, f"cannot read {file}: {error.strerror}") from error
