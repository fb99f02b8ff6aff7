r"""JSON text: printing of binary values as TiDB does, and parsing into binary values.

    {"a": [1, 2.5, null], "b": "é\n"}

Separators are ", " and ": "; keys are in stored order. Numbers print as in Go:

    1, -1, 18446744073709551615     integers
    0.000001, 100000000000000000000 doubles from 1e-6 on and below 1e21, the shortest digits
    1e-7, 1e+21                     other doubles

Strings escape `"`, `\`, characters below U+0020, U+2028 and U+2029; a byte that is invalid UTF-8
prints as `\ufffd`. Types that JSON does not have print as strings:

    date                            "2020-02-29"
    datetime, timestamp             "2020-02-29 12:00:00.000000"
    time                            "-01:02:03.500000"
    opaque: other MySQL types       "base64:type253:AAE="

Such a text is parsed as a string, and 2.0, which prints as 2, as an integer: parsing and printing
restores the text, but not always the binary value. See TiDB's `types/json_binary.go`.
"""

import base64
import json
import math
import re
import struct
from typing import Any, Final, TypeAlias

import numpy as np

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.json import (
    HEADER_BYTES,
    KEY_ENTRY_BYTES,
    MAX_DEPTH,
    VALUE_ENTRY_BYTES,
    JSONType,
)
from pyspark_theflash.tidb.codec.number import decode_uvarint, encode_uvarint

_LAYER: Final = "JSON text"
_LITERALS: Final = ("null", "true", "false")
_HEADER: Final = struct.Struct("<II")
_KEY_ENTRY: Final = struct.Struct("<IH")
_VALUE_ENTRY: Final = struct.Struct("<BI")
_INT64: Final = struct.Struct("<q")
_UINT64: Final = struct.Struct("<Q")
_DOUBLE: Final = struct.Struct("<d")
_MAX_KEY_BYTES: Final = 0xFFFF
_MAX_BYTES: Final = 0xFFFFFFFF
_NOT_PLAIN: Final = re.compile('[\x00-\x1f"\\\\\u2028\u2029\udc80-\udcff]')
_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_SHORT_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_Parsed: TypeAlias = Any


def print_json(value: bytes) -> str:
    """Format one binary value, which `check_values` has accepted, as text."""
    return _print(value, value[0], 1)


def json_scalar(value: bytes) -> bytes | float | None:
    """Return a string as bytes, a number, or a boolean; None for all other binary values."""
    tp = value[0]
    if tp == JSONType.STRING:
        return _bytes_at(value, 1)
    if tp == JSONType.INT64:
        return int(_INT64.unpack_from(value, 1)[0])
    if tp == JSONType.UINT64:
        return int(_UINT64.unpack_from(value, 1)[0])
    if tp == JSONType.DOUBLE:
        return float(_DOUBLE.unpack_from(value, 1)[0])
    return (None, True, False)[value[1]] if tp == JSONType.LITERAL else None


def _print(data: bytes, tp: int, at: int) -> str:
    """Format the value of type `tp` whose content begins at `at`."""
    if tp == JSONType.STRING:
        return _quote(_bytes_at(data, at))
    if tp == JSONType.INT64:
        return str(_INT64.unpack_from(data, at)[0])
    if tp == JSONType.OBJECT:
        return _print_object(data, at)
    if tp == JSONType.ARRAY:
        count = _HEADER.unpack_from(data, at)[0]
        return f"[{', '.join(_print_members(data, at, at + HEADER_BYTES, count))}]"
    if tp == JSONType.LITERAL:
        return _LITERALS[data[at]]
    if tp == JSONType.DOUBLE:
        return _print_double(_DOUBLE.unpack_from(data, at)[0])
    if tp == JSONType.UINT64:
        return str(_UINT64.unpack_from(data, at)[0])
    if tp == JSONType.OPAQUE:
        return f'"base64:type{data[at]}:{base64.b64encode(_bytes_at(data, at + 1)).decode()}"'
    if tp == JSONType.TIME:
        return _print_time(_INT64.unpack_from(data, at)[0])
    return _print_core_time(_UINT64.unpack_from(data, at)[0], with_time=tp != JSONType.DATE)


def _print_object(data: bytes, at: int) -> str:
    count = _HEADER.unpack_from(data, at)[0]
    keys_at = at + HEADER_BYTES
    values_at = keys_at + KEY_ENTRY_BYTES * count
    keys = (
        _quote(data[at + offset : at + offset + size])
        for offset, size in _KEY_ENTRY.iter_unpack(data[keys_at:values_at])
    )
    values = _print_members(data, at, values_at, count)
    return f"{{{', '.join(f'{k}: {v}' for k, v in zip(keys, values, strict=True))}}}"


def _print_members(data: bytes, at: int, entries_at: int, count: int) -> list[str]:
    entries = data[entries_at : entries_at + VALUE_ENTRY_BYTES * count]
    return [
        _LITERALS[offset & 0xFF] if tp == JSONType.LITERAL else _print(data, tp, at + offset)
        for tp, offset in _VALUE_ENTRY.iter_unpack(entries)
    ]


def _bytes_at(data: bytes, at: int) -> bytes:
    size, start = decode_uvarint(data, at)
    return data[start : start + size]


def _quote(raw: bytes) -> str:
    # Each invalid UTF-8 byte becomes a lone surrogate, U+DC80 to U+DCFF.
    return f'"{_NOT_PLAIN.sub(_escape, raw.decode("utf-8", "surrogateescape"))}"'


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    return f"\\u{ord(char):04x}" if char < "\ud800" else "\\ufffd"


def _print_double(value: float) -> str:
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        return np.format_float_positional(value, trim="-")
    # As Go's JSON encoder: `1e-7`, not `1e-07`. Positive exponents are at least 21.
    digits, exponent = np.format_float_scientific(value, trim="-", exp_digits=1).split("e")
    return f"{digits}e{exponent}"


def _print_core_time(core: int, *, with_time: bool) -> str:
    # From the highest bit: year 14 bits, month 4, day 5, hour 5, minute 6, second 6, micro 20.
    date = f"{core >> 50:04}-{core >> 46 & 15:02}-{core >> 41 & 31:02}"
    if not with_time:
        return f'"{date}"'
    clock = f"{core >> 36 & 31:02}:{core >> 30 & 63:02}:{core >> 24 & 63:02}"
    return f'"{date} {clock}.{core >> 4 & 0xFFFFF:06}"'


def _print_time(nanoseconds: int) -> str:
    seconds, micros = divmod(abs(nanoseconds) // 1000, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    sign = "-" if nanoseconds < 0 else ""
    return f'"{sign}{hours:02}:{minute:02}:{second:02}.{micros:06}"'


def parse_json(text: str) -> bytes:
    """Parse JSON text into a binary value, as TiDB does.

    Keys are sorted by their bytes; of equal keys the last one is used. Numbers with a point or an
    exponent become doubles, others int64, uint64 or, if out of range of both, doubles.

    Raises:
        CodecError: The text is not valid JSON, a number is too large, a key is too long, or values
            are nested too deep.
    """
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        tp, content = _encode(value, 1)
    except (ValueError, OverflowError, RecursionError):
        # Not chained, because Python's message contains the text.
        raise CodecError(_LAYER, "text is not valid JSON or exceeds TiDB's limits") from None
    return bytes([tp]) + content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _encode(value: _Parsed, depth: int) -> tuple[JSONType, bytes]:
    if depth > MAX_DEPTH:
        raise ValueError
    if isinstance(value, str):
        raw = _utf8(value)
        return JSONType.STRING, encode_uvarint(len(raw)) + raw
    if value is None or isinstance(value, bool):
        return JSONType.LITERAL, bytes([(None, True, False).index(value)])
    if isinstance(value, int):
        return _encode_integer(value)
    if isinstance(value, float):
        return JSONType.DOUBLE, _DOUBLE.pack(value)
    if isinstance(value, list):
        return JSONType.ARRAY, _encode_container((), value, depth)
    members = sorted({_utf8(key): member for key, member in value.items()}.items())
    keys = [key for key, _ in members]
    return JSONType.OBJECT, _encode_container(keys, [member for _, member in members], depth)


def _utf8(text: str) -> bytes:
    return _LONE_SURROGATES.sub("\ufffd", text).encode()


def _encode_integer(value: int) -> tuple[JSONType, bytes]:
    if -(1 << 63) <= value < 1 << 63:
        return JSONType.INT64, _INT64.pack(value)
    if 0 <= value < 1 << 64:
        return JSONType.UINT64, _UINT64.pack(value)
    return JSONType.DOUBLE, _DOUBLE.pack(float(value))


def _encode_container(keys: "list[bytes] | tuple[()]", values: list[_Parsed], depth: int) -> bytes:
    """Encode an object with `keys`, or an array, without keys."""
    at = HEADER_BYTES + KEY_ENTRY_BYTES * len(keys) + VALUE_ENTRY_BYTES * len(values)
    key_entries, value_entries, contents = [], [], []
    for key in keys:
        if len(key) > _MAX_KEY_BYTES:
            raise ValueError
        key_entries.append(_KEY_ENTRY.pack(at, len(key)))
        at += len(key)
    for value in values:
        tp, content = _encode(value, depth + 1)
        if tp is JSONType.LITERAL:
            value_entries.append(_VALUE_ENTRY.pack(tp, content[0]))
            continue
        value_entries.append(_VALUE_ENTRY.pack(tp, at))
        contents.append(content)
        at += len(content)
        if at > _MAX_BYTES:
            raise ValueError
    header = _HEADER.pack(len(values), at)
    return b"".join([header, *key_entries, *value_entries, *keys, *contents])
