"""Command line parsing: argparse with this project's errors."""

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pyspark_theflash.base.errors import OptionError, UsageError
from pyspark_theflash.base.log import FORMATS, TEXT
from pyspark_theflash.base.timestamp import parse_timestamp
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp

if TYPE_CHECKING:
    from pyspark_theflash.service.api.token import AccessToken

MAX_SECONDS: Final = 10 * 365 * 86_400
MAX_MEBIBYTES: Final = 1 << 20
HEARTBEAT_MS: Final = 60_000
TOKEN_VARIABLE: Final = "THEFLASH_TOKEN"  # noqa: S105 (its name, not a token)
"""Environment variable of the token; command lines are readable by all processes."""


class ArgumentParser(argparse.ArgumentParser):
    """Raises `UsageError` instead of printing and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def timestamp(text: str) -> TimeStamp:
    """Parse a timestamp argument: a TSO, or a time with its zone."""
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def cluster_id(text: str) -> int:
    """Parse PD's id of a cluster."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 64):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer below 2**64")
    return int(text)


def seconds(text: str) -> int:
    """Parse a duration in seconds, with or without decimals, to milliseconds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return round(number * 1000)


def count(text: str) -> int:
    """Parse a number of rows, at least 1."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 63):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows, at least 1")
    return int(text)


def mebibytes(text: str) -> int:
    """Parse a size in MiB to bytes."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MAX_MEBIBYTES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB")
    return int(text) << 20


def add_seconds(
    parser: argparse._ActionsContainer,
    flag: str,
    help: str,
    default_ms: int | None = None,
    *,
    required: bool = False,
) -> None:
    """Add an option for a duration in seconds. A default other than 0 is added to its help text."""
    text = f"{help} (default: {default_ms / 1000:g})" if default_ms else help
    parser.add_argument(
        flag, type=seconds, default=default_ms, required=required, metavar="S", help=text
    )


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def add_compare_share(parser: argparse.ArgumentParser) -> None:
    """Add `--compare-share`."""
    parser.add_argument(
        "--compare-share",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="with TiKV's change feed, the share of the time in which tables are compared with "
        "TiKV, to find physical imports that the feed does not have; 0 compares only after PD's "
        "keys tell of an import (default: 0.05)",
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the store's folder."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's folder")


def add_at(parser: argparse._ActionsContainer) -> None:
    """Add `--at`."""
    parser.add_argument(
        "--at",
        type=timestamp,
        metavar="TS",
        help="the timestamp to read at: a TSO, or a time with its zone such as "
        "2024-02-03T04:05:06.123Z (default: the newest)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_token(parser: argparse._ActionsContainer) -> None:
    """Add `--token-file`."""
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"the token for a server (or {TOKEN_VARIABLE} in the environment)",
    )


def add_telemetry(parser: argparse.ArgumentParser) -> None:
    """Add `--metrics`, `--heartbeat` and `--log`."""
    group = parser.add_argument_group("metrics and log")
    group.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="serve Prometheus metrics at /metrics (docs/metrics.md)",
    )
    state = "log the command's state every S seconds; 0: never"
    add_seconds(group, "--heartbeat", state, HEARTBEAT_MS)
    group.add_argument(
        "--log",
        choices=FORMATS,
        default=TEXT,
        help="log as text, or one JSON object per line (default: text)",
    )


def server_token(file: Path | None) -> "AccessToken | None":
    """Return the token in a file, or else in the environment; None if there is none."""
    # Imported here because the writer of a folder does not need it.
    from pyspark_theflash.service.api.token import AccessToken

    if file is not None:
        return AccessToken.from_file(file)
    token = os.environ.get(TOKEN_VARIABLE)
    return None if token is None else AccessToken(token)


def add_tls(parser: argparse._ActionsContainer, prefix: str = "") -> None:
    """Add `--ca`, `--cert` and `--key`, with a prefix."""
    helps = {
        "ca": "CA of the other side's certificate, PEM; enables TLS",
        "cert": "certificate of this process, PEM",
        "key": "its private key, PEM",
    }
    for name, text in helps.items():
        parser.add_argument(f"--{prefix}{name}", type=Path, metavar="FILE", help=text)


def add_access(parser: argparse._ActionsContainer, clients: str, prefix: str = "") -> None:
    """Add `--allow`, with a prefix, and `--insecure`, of a gRPC server of TiDB's cluster."""
    parser.add_argument(
        f"--{prefix}allow",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a common name that certificates of {clients} may have; required with HOST:PORT",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help=f"let all users of this machine connect as {clients}, to HOST:PORT of the loopback "
        "interface, without certificates",
    )


def tls_files(arguments: argparse.Namespace, prefix: str = "") -> TlsFiles | None:
    """Return the files of `--ca`, `--cert` and `--key` with a prefix; None without `--ca`.

    Raises:
        UsageError: A certificate or key is given without a CA.
    """
    ca, cert, key = (getattr(arguments, f"{prefix}{name}") for name in ("ca", "cert", "key"))
    if ca is not None:
        return TlsFiles(ca, cert, key)
    if cert is not None or key is not None:
        option = f"--{prefix.replace('_', '-')}"
        raise UsageError(f"{option}cert and {option}key need {option}ca")
    return None


def split_scheme(option: str, value: str, schemes: tuple[str, ...]) -> tuple[str, str]:
    """Split `file:PATH` into ("file", "PATH")."""
    scheme, colon, rest = value.partition(":")
    if not colon or scheme not in schemes or not rest:
        forms = ", ".join(f"{name}:..." for name in schemes)
        raise OptionError(option, f"{value!r} is not of the form {forms}")
    return scheme, rest
