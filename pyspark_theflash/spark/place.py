"""Which server has a store, and who we are there, as values: executors do not have our files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.options import (
    SERVER_OPTIONS,
    STORE,
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    TOKEN,
    TOKEN_FILE,
)
from pyspark_theflash.base.tls import TlsMaterial
from pyspark_theflash.net.address import SCHEME, UNIX
from pyspark_theflash.service.api.token import AccessToken

if TYPE_CHECKING:
    from pyspark_theflash.service.client.theflash import TheFlash


@dataclass(frozen=True, slots=True)
class Server:
    """`unix:PATH` or `theflash://HOST:PORT`; survives pickle, and shows no secret."""

    address: str
    token: AccessToken | None = None
    tls: TlsMaterial | None = None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> "Server | None":
        """The server that a read's options name; None where its store is a folder.

        Raises:
            OptionError: token or certificates cannot be read, or do not go together.
        """
        given = {name.lower(): text for name, text in options.items()}
        address = given.get(STORE.name, "").strip()
        if not address.startswith((SCHEME, UNIX)):
            return None
        return cls(address, _token(given), _tls(given))

    def connect(self) -> "TheFlash":
        """The store there, which is called when something is asked of it.

        Raises `OptionError`: address or certificates do not fit.
        """
        # Brings in all that reads stores, which tasks that read a folder do without.
        from pyspark_theflash.service.client.theflash import connect

        return connect(self.address, token=self.token, tls=self.tls)


def without_secrets(options: Mapping[str, str]) -> dict[str, str]:
    """The options that a server is told."""
    ours = {option.name for option in SERVER_OPTIONS}
    return {name: text for name, text in options.items() if name.lower() not in ours}


def _token(given: Mapping[str, str]) -> AccessToken | None:
    said, file = given.get(TOKEN.name), given.get(TOKEN_FILE.name)
    if said is not None and file is not None:
        raise OptionError(TOKEN_FILE.name, "cannot be given together with token")
    if file is not None:
        try:
            return AccessToken.from_file(Path(file))
        except OptionError as error:
            raise OptionError(TOKEN_FILE.name, error.reason) from error
    return None if said is None else AccessToken(said.strip())


def _tls(given: Mapping[str, str]) -> TlsMaterial | None:
    ca, cert, key = (
        _content(option.name, given.get(option.name)) for option in (TLS_CA, TLS_CERT, TLS_KEY)
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
