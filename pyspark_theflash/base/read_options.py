"""Options of a read, and their parsing.

Spark passes options as lower-cased names and texts; names are case-insensitive. An unknown name is
rejected and not ignored: a misspelt `snapshot_ts` must not lead to a read at another timestamp.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.timestamp import AnyTimestamp, parse_timestamp
from pyspark_theflash.base.types import TimeStamp

T = TypeVar("T")

ZERO_DATES: Final = ("raise", "null", "string")


@dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    """One option. `type` parses its text, or raises a ValueError with the reason."""

    name: str
    type: Callable[[str], T]
    default: T | None
    doc: str

    def value_in(self, texts: Mapping[str, str]) -> T | None:
        """Return the value of this option in `texts` (by lower-case name), or its default.

        Raises:
            OptionError: The text is not a valid value.
        """
        text = texts.get(self.name.lower())
        if text is None:
            return self.default
        try:
            return self.type(text.strip())
        except ValueError as error:
            raise OptionError(self.name, str(error)) from None


def folder(text: str) -> Path:
    """Parse a local folder; made absolute, as processes do not share a working directory."""
    if not text or "://" in text:
        raise ValueError(f"{text!r} is not a folder of this machine")
    return Path(text.removeprefix("file:")).absolute()


def table_name(text: str) -> str:
    """Parse `db.table`."""
    database, dot, table = text.partition(".")
    if not (database and dot and table):
        raise ValueError(f"{text!r} is not of the form DB.TABLE")
    return text


def column_names(text: str) -> tuple[str, ...]:
    """Parse column names separated by commas."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError("a column name is empty")
    if len({name.lower() for name in names}) < len(names):
        raise ValueError("a column is named twice")
    return names


def seconds(text: str) -> float:
    """Parse a number of seconds, fractions allowed."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is not a number of seconds")
    return value


def flag(text: str) -> bool:
    """Parse `true` or `false`."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def expression(text: str) -> str:
    """Check that an expression is not empty; it is parsed together with its table."""
    if not text:
        raise ValueError("there is no expression")
    return text


def zero_dates(text: str) -> str:
    """Parse one of `ZERO_DATES`."""
    if text.lower() not in ZERO_DATES:
        raise ValueError(f"{text!r} is none of {', '.join(ZERO_DATES)}")
    return text.lower()


STORE: Final = Option(
    "store",
    folder,
    None,
    "The store's folder, or a server: `theflash://HOST:PORT` or `unix:PATH`. Required.",
)
TABLE: Final = Option(
    "table", table_name, None, "The table to read. Required, here or as the path."
)
PATH: Final = Option("path", table_name, None, "The table, as passed to `.load(...)`.")
SNAPSHOT_TS: Final = Option(
    "snapshot_ts",
    parse_timestamp,
    None,
    "The timestamp to read at: a TSO, or a time with its zone such as `2024-02-03T04:05:06.123Z`, "
    "which reads the state before the commits of that millisecond. Default: the newest timestamp "
    "that the store can read, fixed at `load()`.",
)
VERSION_AS_OF: Final = Option(
    "versionAsOf", parse_timestamp, None, "Another name of `snapshot_ts`."
)
TIMESTAMP_AS_OF: Final = Option(
    "timestampAsOf", parse_timestamp, None, "Another name of `snapshot_ts`."
)
COLUMNS: Final = Option(
    "columns",
    column_names,
    None,
    "The columns to read, in this order; may include `_tidb_rowid`. Default: the columns of "
    "`SELECT *`.",
)
WAIT: Final = Option(
    "wait_for_ts",
    seconds,
    0.0,
    "How many seconds to wait for the store to reach the timestamp before `NotCaughtUpError` is "
    "raised.",
)
MAX_STALENESS: Final = Option(
    "max_staleness",
    seconds,
    None,
    "Without a timestamp: by how many seconds the newest timestamp that the store can read may be "
    "behind this machine's clock.",
)
WHERE: Final = Option(
    "where",
    expression,
    None,
    "A condition in TiDB's SQL, `id >= 100 AND name LIKE 'a%'`: reads only the rows for which it "
    "is true. Other rows are filtered out by the store.",
)
ZERO_DATES_OPTION: Final = Option(
    "zero_dates",
    zero_dates,
    "raise",
    "How to read dates that do not exist, such as 0000-00-00: `raise`, `null`, or `string`, which "
    "returns all DATE, DATETIME and TIMESTAMP columns as text.",
)
ALL_AS_TEXT: Final = Option(
    "all_as_text",
    flag,
    False,
    "Every column as TiDB prints it at time zone +00:00: strings; BIT and binary strings as bytes.",
)
PUSHDOWN: Final = Option(
    "pushdown",
    flag,
    True,
    "With the jar: whether the store evaluates filters, aggregates and limits that it computes "
    "exactly as Spark.",
)
TOKEN: Final = Option("token", str, None, "The authentication token for a server.")
TOKEN_FILE: Final = Option("token_file", str, None, "A file on the driver with the token.")
TLS_CA: Final = Option("tls_ca", str, None, "CA certificates for servers, a PEM file; enables TLS.")
TLS_CERT: Final = Option("tls_cert", str, None, "The client certificate, a PEM file.")
TLS_KEY: Final = Option("tls_key", str, None, "The private key of the client certificate.")
SERVER_OPTIONS: Final = (TOKEN, TOKEN_FILE, TLS_CA, TLS_CERT, TLS_KEY)
SCAN_OPTIONS: Final[tuple[Option[Any], ...]] = (
    STORE,
    TABLE,
    PATH,
    SNAPSHOT_TS,
    VERSION_AS_OF,
    TIMESTAMP_AS_OF,
    WAIT,
    MAX_STALENESS,
    COLUMNS,
    WHERE,
    ZERO_DATES_OPTION,
    ALL_AS_TEXT,
    PUSHDOWN,
    *SERVER_OPTIONS,
)


@dataclass(frozen=True, slots=True)
class ReadPoint:
    """Timestamp to read at, or the newest one, with limits on waiting and staleness.

    Raises:
        OptionError: The fields contradict each other.
    """

    snapshot_ts: TimeStamp | None = None
    wait_s: float = 0.0
    max_staleness_s: float | None = None

    def __post_init__(self) -> None:
        has_ts, has_bound = self.snapshot_ts is not None, self.max_staleness_s is not None
        if has_ts and has_bound:
            raise OptionError(MAX_STALENESS.name, "cannot be given together with a timestamp")
        if self.wait_s and not has_ts and not has_bound:
            reason = f"has no effect without a timestamp or {MAX_STALENESS.name}"
            raise OptionError(WAIT.name, reason)


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """Options of a scan; by default, of all columns and all rows."""

    store: Path
    table: str
    moment: ReadPoint = ReadPoint()
    columns: tuple[str, ...] | None = None
    where: str | None = None
    zero_dates: str = "raise"
    all_as_text: bool = False

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> "ScanOptions":
        """Parse the options of a scan.

        Raises:
            OptionError: An option is missing, unknown, invalid, or contradicts another.
        """
        by_name = {name.lower(): text for name, text in texts.items()}
        _reject_unknown(by_name)
        store = store_folder(by_name)
        PUSHDOWN.value_in(by_name)
        zero_dates = ZERO_DATES_OPTION.value_in(by_name) or "raise"
        all_as_text = bool(ALL_AS_TEXT.value_in(by_name))
        if all_as_text and zero_dates == "null":
            reason = f"cannot be null together with {ALL_AS_TEXT.name}, which shows such dates"
            raise OptionError(ZERO_DATES_OPTION.name, reason)
        return cls(
            store,
            _table(by_name),
            ReadPoint(
                _snapshot_ts(by_name),
                WAIT.value_in(by_name) or 0.0,
                MAX_STALENESS.value_in(by_name),
            ),
            COLUMNS.value_in(by_name),
            WHERE.value_in(by_name),
            zero_dates,
            all_as_text,
        )


def store_folder(by_name: Mapping[str, str]) -> Path:
    """Return the folder of a read whose store is not behind a server; names in lower case.

    Raises:
        OptionError: There is no store, or an option is for servers only.
    """
    for option in (each for each in SERVER_OPTIONS if each.name in by_name):
        raise OptionError(option.name, "is for servers, and the store is a folder")
    store = STORE.value_in(by_name)
    if store is None:
        raise OptionError(STORE.name, "is missing; it names the store's folder")
    return store


def timestamp_option(key: str, value: AnyTimestamp) -> TimeStamp:
    """Parse the timestamp of an option; see `parse_timestamp`. Raises `OptionError`."""
    try:
        return parse_timestamp(value)
    except ValueError as error:
        raise OptionError(key, str(error)) from None


def _reject_unknown(by_name: Mapping[str, str]) -> None:
    option_names = {option.name.lower() for option in SCAN_OPTIONS}
    for name in sorted(by_name.keys() - option_names):
        names = ", ".join(option.name for option in SCAN_OPTIONS)
        raise OptionError(name, f"there is no such option; there are {names}")


def _table(by_name: Mapping[str, str]) -> str:
    table, path = TABLE.value_in(by_name), PATH.value_in(by_name)
    if table is not None and path is not None and table.lower() != path.lower():
        raise OptionError(TABLE.name, f"is {table!r}, but load() has {path!r}")
    name = table or path
    if name is None:
        raise OptionError(TABLE.name, "is missing; it names a table as DB.TABLE")
    return name


def _snapshot_ts(by_name: Mapping[str, str]) -> TimeStamp | None:
    """Return the timestamp from the one of its three options that is used."""
    ways = (SNAPSHOT_TS, VERSION_AS_OF, TIMESTAMP_AS_OF)
    used = [(option.name, ts) for option in ways if (ts := option.value_in(by_name)) is not None]
    if len(used) > 1:
        raise OptionError(used[1][0], f"cannot be given together with {used[0][0]}")
    return used[0][1] if used else None
