"""Parsing command lines: argparse, with errors in this project's form."""

import argparse
from typing import NoReturn

from pyspark_theflash.errors import OptionError, UsageError
from pyspark_theflash.types import MAX_TS, TimeStamp


class ArgumentParser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def tso(text: str) -> TimeStamp:
    """A timestamp argument."""
    if not text.isascii() or not text.isdigit() or int(text) >= MAX_TS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a TSO (a whole number below 2**64 - 1)")
    return TimeStamp(int(text))


def split_scheme(option: str, value: str, known: tuple[str, ...]) -> tuple[str, str]:
    """`file:PATH` -> ("file", "PATH")."""
    scheme, colon, rest = value.partition(":")
    if not colon or scheme not in known or not rest:
        forms = ", ".join(f"{name}:..." for name in known)
        raise OptionError(option, f"{value!r} is not of the form {forms}")
    return scheme, rest
