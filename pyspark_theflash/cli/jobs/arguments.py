"""Command line parsing: argparse with this project's errors."""

import argparse
import math
from pathlib import Path
from typing import Final, NoReturn

from pyspark_theflash.base.errors import OptionError, UsageError
from pyspark_theflash.base.timestamp import parse_timestamp
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp

MAX_SECONDS: Final = 10 * 365 * 86_400
MAX_MEBIBYTES: Final = 1 << 20


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


def mebibytes(text: str) -> int:
    """Parse a size in MiB to bytes."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MAX_MEBIBYTES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB")
    return int(text) << 20


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the store's folder."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's folder")


def add_at(parser: argparse.ArgumentParser) -> None:
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
