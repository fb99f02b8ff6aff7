"""Values converted by TiDB, from `tests/golden/vectors`: by its own code, and in a capture."""

import gzip
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.text import parse_column
from tests.support.golden_vectors import VECTORS

_FLOATS: Final = frozenset({MySQLType.FLOAT, MySQLType.DOUBLE})


class Pair(NamedTuple):
    """Two types, and cases: the old value's text and the new one's, or the old one's alone."""

    old_name: str
    new_name: str
    old: FieldType
    new: FieldType
    kind: str
    cases: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        return f"{self.old_name} to {self.new_name}"


class SessionCase(NamedTuple):
    """An old value, and what it became by a session's statement; `FAILS` if that fails."""

    pair: str
    old: FieldType
    new: FieldType
    session: ReorgSession
    value: Any
    wanted: Any


class Column(NamedTuple):
    """A column of a captured workload with its texts before and after the change."""

    name: str
    old: FieldType
    new: FieldType
    values: Sequence[tuple[str | None, str | None]]


@cache
def _vectors(name: str = "convert_vectors") -> dict[str, Any]:
    packed = (VECTORS / f"{name}.json.gz").read_bytes()
    document: dict[str, Any] = json.loads(gzip.decompress(packed))
    return document


@cache
def conversion_types(vectors: str = "convert_vectors") -> dict[str, FieldType]:
    """The types of the pairs by their names there."""
    return {
        spec["name"]: FieldType(
            MySQLType(spec["tp"]),
            spec["flag"],
            spec["flen"],
            spec["decimal"],
            spec["charset"],
            spec["collate"],
            tuple(spec["elems"]),
        )
        for spec in _vectors(vectors)["types"]
    }


def session_cases() -> Iterator[SessionCase]:
    """Values converted in sessions with several time zones and SQL modes."""
    name = "convert_session_vectors"
    types, document = conversion_types(name), _vectors(name)
    sessions = [
        ReorgSession(s["zone"], s["offset_s"], 0, 0, s["sql_mode"]) for s in document["sessions"]
    ]
    for old_name, new_name, _, cases in document["pairs"]:
        old, new = types[old_name], types[new_name]
        for text, results in cases:
            value = stored_value(text, old)
            for session, result in zip(sessions, results, strict=True):
                wanted = FAILS if result == {"fails": 1} else stored_value(result, new)
                yield SessionCase(f"{old_name} to {new_name}", old, new, session, value, wanted)


def conversion_pairs(kind: str) -> Iterator[Pair]:
    """The pairs that TiDB rewrites (`reorg`), leaves as they are (`direct`), or refuses."""
    types = conversion_types()
    for old, new, handling, cases in _vectors()["pairs"]:
        if handling == kind:
            yield Pair(old, new, types[old], types[new], handling, cases)


def captured_changes() -> list[Column]:
    """Columns whose type changed in the workload `ddl`."""
    document = json.loads((VECTORS / "convert_ddl_rows.json").read_text())
    return [
        Column(column["column"], _type(column["old"]), _type(column["new"]), column["values"])
        for column in document["columns"]
    ]


def _type(info: dict[str, Any]) -> FieldType:
    return FieldType(
        MySQLType(info["Tp"]),
        info["Flag"],
        info["Flen"],
        info["Decimal"],
        info["Charset"],
        info["Collate"],
        tuple(info["Elems"] or ()),
    )


FAILS: Final = object()
"""In place of a value: the statement fails."""
UNSTORABLE: Final = object()
"""A value that TiDB has in a column and the store has no place for."""


def stored_value(text: Any, field_type: FieldType) -> Any:
    """Parse a text of the vectors; return `UNSTORABLE` if the store cannot hold it."""
    if text is None or (field_type.tp in STRING_TYPES and isinstance(text, str)):
        return text
    if isinstance(text, dict):
        # TiDB's latin1 takes any bytes.
        is_bytes = field_type.is_binary_string or field_type.tp == MySQLType.JSON
        return bytes.fromhex(text["x"]) if is_bytes else UNSTORABLE
    if field_type.tp in DATETIME_TYPES:
        return _time_value(text, field_type)
    if field_type.tp == MySQLType.NEWDECIMAL:
        return Decimal(text)
    if field_type.tp in _FLOATS:
        return float(text)
    number, wanted = int(text), arrow_type(field_type)
    if pa.types.is_integer(wanted):
        bits = wanted.bit_width
        low = -(2 ** (bits - 1)) if pa.types.is_signed_integer(wanted) else 0
        return number if low <= number < low + 2**bits else UNSTORABLE
    return number


@cache
def _time_value(text: str, field_type: FieldType) -> Any:
    try:
        time = parse_column(pa.array([text]), field_type, "c")
    except CodecError:
        return UNSTORABLE
    number = pa.int32() if pa.types.is_date32(time.type) else pa.int64()
    return time.view(number)[0].as_py()
