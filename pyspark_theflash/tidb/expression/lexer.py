"""Tokenizer for SQL expressions, by MySQL's rules under TiDB's default SQL mode.

    `a` + 1                NAME a (quoted), SYMBOL +, NUMBER 1
    concat(_utf8mb4'v')    WORD concat, SYMBOL (, STRING v, SYMBOL )
    x'4142', 0x4142, b'1'  HEX

A charset introducer is part of its string, which is UTF-8 already; `_binary` makes it bytes.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final

from pyspark_theflash.tidb.expression.failure import LackingError

MAX_LENGTH: Final = 1 << 16
# TiDB computes with at most 81 digits.
_MAX_DIGITS: Final = 81

_TOKEN: Final = re.compile(
    r"""
    \s*(?:
      (?P<hex>[xX]'(?:[0-9a-fA-F]{2})*' | 0x[0-9a-fA-F]+(?![0-9a-zA-Z_$]))
    | (?P<bit>[bB]'[01]*' | 0b[01]+(?![0-9a-zA-Z_$]))
    | (?P<introducer>_(?:utf8mb4|utf8mb3|utf8|ascii|latin1|binary|gbk))(?=\s*['"xX0bB])
    | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)
    | (?P<word>[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*)
    | `(?P<name>(?:[^`]|``)*)`
    | '(?P<single>(?:[^'\\]|''|\\.)*)'
    | "(?P<double>(?:[^"\\]|""|\\.)*)"
    | (?P<symbol><=>|<>|!=|<=|>=|<<|>>|&&|\|\||->>|->|[-+*/%=<>!&|^~(),.])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES: Final = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}


class TokenKind(Enum):
    """Kind of a token."""

    NUMBER = "number"
    STRING = "string"
    HEX = "hex"
    NAME = "name"
    WORD = "word"
    SYMBOL = "symbol"
    END = "end"


@dataclass(frozen=True, slots=True)
class SqlToken:
    """Token; `value` is the number, string, bytes or name, with words in lower case."""

    kind: TokenKind
    value: str | int | Decimal | float | bytes


def tokenize(text: str) -> list[SqlToken]:
    """Split an expression into tokens, the last one of kind END. Raises `LackingError`."""
    if len(text) > MAX_LENGTH:
        raise LackingError(f"an expression of {len(text)} characters")
    tokens: list[SqlToken] = []
    at, end, introducer = 0, len(text.rstrip()), ""
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise LackingError(f"expression text at character {at}")
        at = match.end()
        if match["introducer"]:
            introducer = match["introducer"]
        else:
            tokens.append(_token(match, introducer))
            introducer = ""
    tokens.append(SqlToken(TokenKind.END, ""))
    return tokens


def _token(match: "re.Match[str]", introducer: str) -> SqlToken:
    kind, text = str(match.lastgroup), match[str(match.lastgroup)]
    if kind == "hex":
        digits = text[2:] if text[0] == "0" else text[2:-1]
        return _literal_bytes(
            bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2)), introducer
        )
    if kind == "bit":
        digits = text[2:] if text[0] == "0" else text[2:-1]
        size = (len(digits) + 7) // 8
        return _literal_bytes(int(digits or "0", 2).to_bytes(size, "big"), introducer)
    if kind in ("single", "double"):
        string = _unescape(text, "'" if kind == "single" else '"')
        return SqlToken(TokenKind.STRING, string.encode() if introducer == "_binary" else string)
    if kind == "number":
        return SqlToken(TokenKind.NUMBER, _number(text))
    if kind == "name":
        return SqlToken(TokenKind.NAME, text.replace("``", "`"))
    if kind == "word":
        return SqlToken(TokenKind.WORD, text.lower())
    return SqlToken(TokenKind.SYMBOL, text)


def _literal_bytes(value: bytes, introducer: str) -> SqlToken:
    """Return a HEX token, or a string if there is an introducer."""
    if not introducer:
        return SqlToken(TokenKind.HEX, value)
    if introducer == "_binary":
        return SqlToken(TokenKind.STRING, value)
    try:
        return SqlToken(TokenKind.STRING, value.decode())
    except UnicodeDecodeError:
        raise LackingError(f"a {introducer} string that is not UTF-8") from None


def _unescape(text: str, quote: str) -> str:
    def replacement(match: "re.Match[str]") -> str:
        following = match[1]
        if following is None:
            return quote
        # \% and \_ keep their backslash, for LIKE patterns.
        return match[0] if following in "%_" else _ESCAPES.get(following, following)

    return re.sub(rf"\\(.)|{quote}{quote}", replacement, text, flags=re.DOTALL)


def _number(text: str) -> int | Decimal | float:
    if len(text) > _MAX_DIGITS:
        raise LackingError(f"a number of more than {_MAX_DIGITS} characters")
    if "e" in text.lower():
        number = float(text)
        if math.isinf(number):
            raise LackingError("a number out of range of DOUBLE")
        return number
    return Decimal(text) if "." in text else int(text)
