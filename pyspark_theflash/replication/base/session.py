"""Session of a TiDB over MySQL's protocol, by PyMySQL.

Values are the bytes that TiDB sends, None for NULL. Without TLS only `mysql_native_password` is
used, which does not send the password.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

from pyspark_theflash.base.errors import (
    BaseCollectedError,
    MissingExtraError,
    OptionError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pyspark_theflash.base.tls import TlsFiles, client_context

if TYPE_CHECKING:
    from pymysql.connections import Connection

Row = tuple[bytes | None, ...]
_CONNECT_S: Final = 10
_IO_S: Final = 120
"""Time without data after which a statement fails."""
_FETCH_ROWS: Final = 256
# MySQL's first error of a client; TiDB's: 8055 and 9006 GC, 8027 the schema is being loaded,
# 9001 PD, 9002 and 9003 TiKV, 9005 a region.
_CLIENT_ERROR: Final = 2000
_COLLECTED: Final = (8055, 9006)
_PASSING: Final = (1040, 1053, 1317, 8027, 9001, 9002, 9003, 9005)
# Errors of accounts, names and variables: their texts contain no values of rows.
_SHOWN: Final = (1044, 1045, 1049, 1054, 1142, 1143, 1146, 1193, 1227, 3159, *_COLLECTED)
# PyMySQL does not convert what it raises for packets that are not as it expects.
_PROTOCOL_ERRORS: Final = (ValueError, LookupError, AssertionError, RuntimeError, struct.error)
_UNSAFE_PLUGINS: Final = (
    *("mysql_clear_password", "dialog", "mysql_old_password"),
    *("sha256_password", "caching_sha2_password"),
)


@dataclass(frozen=True, slots=True)
class MySqlAddress:
    """Address and account of a TiDB server."""

    host: str
    port: int
    user: str
    password: str = field(default="", repr=False)
    tls: TlsFiles | None = None

    @property
    def name(self) -> str:
        """HOST:PORT, for errors."""
        return f"{self.host}:{self.port}"


def parse_url(url: str, password: str = "", tls: TlsFiles | None = None) -> MySqlAddress:
    """Parse `mysql://USER@HOST:PORT`. Raises `OptionError`."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.password is not None:
        reason = "a password in a URL can be read by other users of this machine: remove it"
        raise OptionError("base", reason)
    is_plain = not (parts.path.strip("/") or parts.query or parts.fragment)
    if not (parts.hostname and parts.username and port and is_plain):
        raise OptionError("base", "expected mysql://USER@HOST:PORT")
    return MySqlAddress(parts.hostname, port, unquote(parts.username), password, tls)


class MySqlSession:
    """One session. After an error it is to be closed."""

    def __init__(self, address: MySqlAddress) -> None:
        """Connect.

        Raises:
            MissingExtraError: PyMySQL is not installed.
            ServiceUnavailableError: There is no server.
            ServiceRefusedError: The server does not accept the account.
        """
        try:
            import pymysql
        except ImportError as error:
            raise MissingExtraError("pymysql", "mysql") from error
        self._address = address
        with self._errors():
            self._connection: Connection[Any] = pymysql.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password.encode(),
                charset="utf8mb4",
                use_unicode=False,
                conv={},
                autocommit=True,
                connect_timeout=_CONNECT_S,
                read_timeout=_IO_S,
                write_timeout=_IO_S,
                ssl=client_context(address.tls) if address.tls else None,
                ssl_disabled=address.tls is None,
                auth_plugin_map={} if address.tls else dict.fromkeys(_UNSAFE_PLUGINS, _NeedsTls),
            )

    def query(self, statement: str) -> list[Row]:
        """Execute a statement; return its rows, none if it is not a query.

        Raises:
            ServiceUnavailableError: The server does not respond, or the cluster does not.
            ServiceRefusedError: The server rejects the statement.
            BaseCollectedError: The snapshot has been garbage collected.
        """
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def page(self, statement: str, most_bytes: int) -> tuple[list[Row], int, bool]:
        """Execute a query; return its first rows, their size, and whether there are more.

        Rows beyond about `most_bytes` are discarded. Raises the errors of `query`.
        """
        from pymysql.cursors import SSCursor

        rows: list[Row] = []
        size, is_cut = 0, False
        with self._errors(), self._connection.cursor(SSCursor) as cursor:
            cursor.execute(statement)
            while part := cursor.fetchmany(_FETCH_ROWS):
                if size >= most_bytes:
                    is_cut = True
                    break
                rows += part
                size += sum(len(value) for row in part for value in row if value is not None)
        return rows, size, is_cut

    def close(self) -> None:
        """End the session."""
        try:
            self._connection.close()
        except Exception:  # noqa: BLE001 (PyMySQL raises its own error if it is closed already)
            return

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert errors of PyMySQL, whose texts may contain values."""
        import pymysql

        try:
            yield
        except pymysql.err.MySQLError as error:
            self._raise(error)
        except (OSError, EOFError) as error:
            raise ServiceUnavailableError(
                self._address.name, str(error) or type(error).__name__
            ) from None
        except _PROTOCOL_ERRORS as error:
            reason = f"not MySQL's protocol: {type(error).__name__}"
            raise ServiceRefusedError(self._address.name, reason) from None

    def _raise(self, error: Exception) -> NoReturn:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text = str(error.args[1])[:300] if len(error.args) > 1 else type(error).__name__
        if code in _COLLECTED:
            raise BaseCollectedError(self._address.name, text) from None
        if code in _PASSING or _CLIENT_ERROR <= code < _CLIENT_ERROR + 100 or not code:
            reason = f"error {code}: {text}" if code else type(error).__name__
            raise ServiceUnavailableError(self._address.name, reason) from None
        reason = f"error {code}: {text}" if code in _SHOWN else f"error {code}"
        raise ServiceRefusedError(self._address.name, reason) from None


class _NeedsTls:
    """A way to log in that would show the password to others on the network."""

    def __init__(self, _: object) -> None: ...

    def authenticate(self, _: object) -> NoReturn:
        """Refuse to send the password."""
        raise OptionError(
            "base", "this account sends its password: use TLS (--ca), or mysql_native_password"
        )
