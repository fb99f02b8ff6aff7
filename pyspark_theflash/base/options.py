"""The settings of a read, and the one place where their texts become values.

Spark hands options over as lower-cased names and texts; a name counts whatever its case. Each
setting is one `Option`, and a name that is none is refused rather than ignored: a misspelt
`snapshot_ts` must not turn into a read of another moment.
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
    """One setting. `type` makes a value of a text, or raises a ValueError that says why not."""

    name: str
    type: Callable[[str], T]
    default: T | None
    doc: str

    def value_in(self, given: Mapping[str, str]) -> T | None:
        """The value that `given` (by lower-case name) has for this setting, else the default.

        Raises:
            OptionError: its text is not a value.
        """
        text = given.get(self.name.lower())
        if text is None:
            return self.default
        try:
            return self.type(text.strip())
        except ValueError as error:
            raise OptionError(self.name, str(error)) from None


def folder(text: str) -> Path:
    """A local folder. Made absolute, for processes do not share a working directory."""
    if not text or "://" in text:
        raise ValueError(f"{text!r} is not a folder of this machine")
    return Path(text.removeprefix("file:")).absolute()


def table_name(text: str) -> str:
    """`db.table`."""
    database, dot, table = text.partition(".")
    if not (database and dot and table):
        raise ValueError(f"{text!r} is not of the form DB.TABLE")
    return text


def column_names(text: str) -> tuple[str, ...]:
    """Column names, separated by commas."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError("a column name is empty")
    if len({name.lower() for name in names}) < len(names):
        raise ValueError("a column is named twice")
    return names


def seconds(text: str) -> float:
    """A number of seconds, fractions allowed."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is not a number of seconds")
    return value


def flag(text: str) -> bool:
    """`true` or `false`."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def expression(text: str) -> str:
    """An expression; what it says is looked at where its table is known."""
    if not text:
        raise ValueError("there is no expression")
    return text


def zero_dates(text: str) -> str:
    """One of `ZERO_DATES`."""
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
PATH: Final = Option("path", table_name, None, "The table, as given to `.load(...)`.")
SNAPSHOT_TS: Final = Option(
    "snapshot_ts",
    parse_timestamp,
    None,
    "The timestamp to read at: a TSO, or a time with its zone such as `2024-02-03T04:05:06.123Z`, "
    "which reads the state before the commits of that millisecond. Without it: the newest that the "
    "store can answer, fixed at `load()`.",
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
    "The columns to read, in this order; `_tidb_rowid` may be one. Without it: all that "
    "`SELECT *` shows.",
)
WAIT: Final = Option(
    "wait_for_ts",
    seconds,
    0.0,
    "For how many seconds to wait until the store has come to the timestamp, before "
    "`NotCaughtUpError`.",
)
MAX_STALENESS: Final = Option(
    "max_staleness",
    seconds,
    None,
    "Without a timestamp: how many seconds the newest that the store can answer may lie behind "
    "this machine's clock.",
)
WHERE: Final = Option(
    "where",
    expression,
    None,
    "An expression in TiDB's SQL, `id >= 100 AND name LIKE 'a%'`: only the rows for which TiDB "
    "would find it true. The others are left out beside the data.",
)
ZERO_DATES_OPTION: Final = Option(
    "zero_dates",
    zero_dates,
    "raise",
    "What becomes of dates that no calendar has, 0000-00-00 for one: `raise`, `null`, or `string`, "
    "by which all DATE, DATETIME and TIMESTAMP columns come as text.",
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
    "With the jar: whether filters, aggregates and limits that the store answers exactly as Spark "
    "would are left to it.",
)
TOKEN: Final = Option("token", str, None, "What a server asks for.")
TOKEN_FILE: Final = Option("token_file", str, None, "The same, in a file of the driver's machine.")
TLS_CA: Final = Option(
    "tls_ca", str, None, "Who signs a server's certificate, a PEM file; speaks TLS."
)
TLS_CERT: Final = Option("tls_cert", str, None, "Our certificate for a server, a PEM file.")
TLS_KEY: Final = Option("tls_key", str, None, "Its key.")
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
    """Which moment to read: a timestamp, or the newest there is, and what that may cost.

    Raises:
        OptionError: its parts contradict each other.
    """

    snapshot_ts: TimeStamp | None = None
    wait_s: float = 0.0
    max_staleness_s: float | None = None

    def __post_init__(self) -> None:
        has_ts, has_bound = self.snapshot_ts is not None, self.max_staleness_s is not None
        if has_ts and has_bound:
            raise OptionError(MAX_STALENESS.name, "cannot be given together with a timestamp")
        if self.wait_s and not has_ts and not has_bound:
            reason = f"waits for nothing without a timestamp or {MAX_STALENESS.name}"
            raise OptionError(WAIT.name, reason)


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What to read; without `columns` all of them, without `where` all rows."""

    store: Path
    table: str
    moment: ReadPoint = ReadPoint()
    columns: tuple[str, ...] | None = None
    where: str | None = None
    zero_dates: str = "raise"
    all_as_text: bool = False

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> "ScanOptions":
        """The options of a read.

        Raises:
            OptionError: one is missing, unknown, has no usable value, or contradicts another.
        """
        given = {name.lower(): text for name, text in texts.items()}
        _refuse_unknown(given)
        for option in (each for each in SERVER_OPTIONS if each.name in given):
            raise OptionError(option.name, "is for servers, and the store is a folder")
        PUSHDOWN.value_in(given)
        store = STORE.value_in(given)
        if store is None:
            raise OptionError(STORE.name, "is missing; it names the store's folder")
        zero_dates = ZERO_DATES_OPTION.value_in(given) or "raise"
        all_as_text = bool(ALL_AS_TEXT.value_in(given))
        if all_as_text and zero_dates == "null":
            reason = f"cannot be null together with {ALL_AS_TEXT.name}, which shows them"
            raise OptionError(ZERO_DATES_OPTION.name, reason)
        return cls(
            store,
            _table(given),
            ReadPoint(
                _snapshot_ts(given), WAIT.value_in(given) or 0.0, MAX_STALENESS.value_in(given)
            ),
            COLUMNS.value_in(given),
            WHERE.value_in(given),
            zero_dates,
            all_as_text,
        )


def timestamp_option(key: str, value: AnyTimestamp) -> TimeStamp:
    """The TSO that the value of a setting stands for; see `timestamp`.

    Raises:
        OptionError: it stands for none.
    """
    try:
        return parse_timestamp(value)
    except ValueError as error:
        raise OptionError(key, str(error)) from None


def _refuse_unknown(given: Mapping[str, str]) -> None:
    known = {option.name.lower() for option in SCAN_OPTIONS}
    for name in sorted(given.keys() - known):
        names = ", ".join(option.name for option in SCAN_OPTIONS)
        raise OptionError(name, f"there is no such option; there are {names}")


def _table(given: Mapping[str, str]) -> str:
    table, path = TABLE.value_in(given), PATH.value_in(given)
    if table is not None and path is not None and table.lower() != path.lower():
        raise OptionError(TABLE.name, f"says {table!r}, load() says {path!r}")
    name = table or path
    if name is None:
        raise OptionError(TABLE.name, "is missing; it names a table as DB.TABLE")
    return name


def _snapshot_ts(given: Mapping[str, str]) -> TimeStamp | None:
    """Of the three ways to name a moment, the one that was used."""
    ways = (SNAPSHOT_TS, VERSION_AS_OF, TIMESTAMP_AS_OF)
    found = [(option.name, ts) for option in ways if (ts := option.value_in(given)) is not None]
    if len(found) > 1:
        raise OptionError(found[1][0], f"cannot be given together with {found[0][0]}")
    return found[0][1] if found else None
