"""Changes of type against TiDB's own code, and against a capture."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.convert import convert_column
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from tests.support.conversions import (
    FAILS,
    UNSTORABLE,
    Pair,
    SessionCase,
    captured_changes,
    conversion_pairs,
    session_cases,
    stored_value,
)

SOME_SESSION = ReorgSession("UTC", 0, 0, 0, 0)


def convert(pair: Pair, old_values: Sequence[Any], session: ReorgSession | None = None) -> Any:
    column = pa.array(old_values, arrow_type(pair.old))
    return convert_column(column, pair.old, pair.new, "column c", session)


def depends_on_the_session(pair: Pair) -> bool:
    """Return whether a conversion may be rejected even if all sessions had the same result."""
    has_zone = MySQLType.TIMESTAMP in (pair.old.tp, pair.new.tp)
    return has_zone or (pair.old.tp == MySQLType.TIME and pair.new.tp in DATETIME_TYPES)


def is_comparable(field_type: FieldType) -> bool:
    """Return whether a type has no names that are compared, or a supported collation."""
    if field_type.tp not in (MySQLType.ENUM, MySQLType.SET):
        return True
    try:
        sort_keys(pa.array([""]), field_type)
    except UnsupportedError:
        return False
    return True


def converted_or_none(pair: Pair, value: Any) -> Any:
    try:
        return convert(pair, [value])
    except UnsupportedError:
        return None


@pytest.fixture(scope="module")
def cases() -> list[tuple[Pair, list[Any], list[Any]]]:
    """Pairs of types whose rows TiDB rewrites, old values, new values or `UNSTORABLE`."""
    result = []
    for pair in conversion_pairs("reorg"):
        old = [stored_value(case[0], pair.old) for case in pair.cases]
        new = [stored_value(c[1], pair.new) if len(c) > 1 else UNSTORABLE for c in pair.cases]
        result.append((pair, old, new))
    return result


def test_rewritten_rows_are_what_tidb_makes_them(
    cases: list[tuple[Pair, list[Any], list[Any]]],
) -> None:
    compared = 0
    for pair, old, new in cases:
        storable = [i for i, value in enumerate(new) if value is not UNSTORABLE]
        if not storable or depends_on_the_session(pair) or not is_comparable(pair.new):
            continue
        got = convert(pair, [old[i] for i in storable], SOME_SESSION)
        wanted = pa.array([new[i] for i in storable], arrow_type(pair.new))
        if not got.equals(wanted):
            differing = [
                (old[i], new[i], value)
                for i, value, right in zip(
                    storable, got.to_pylist(), wanted.to_pylist(), strict=True
                )
                if value != right
            ]
            pytest.fail(f"{pair}: old, TiDB's, ours: {differing[:5]}")
        compared += len(storable)
    assert compared > 65_000


def test_what_a_session_decided_or_no_column_holds_is_refused(
    cases: list[tuple[Pair, list[Any], list[Any]]],
) -> None:
    refused = 0
    for pair, old, new in cases:
        for value, right in zip(old, new, strict=True):
            if right is UNSTORABLE:
                with pytest.raises(UnsupportedError):
                    convert(pair, [value])
                refused += 1
    assert refused > 500


def test_what_depends_on_the_session_is_right_or_refused(
    cases: list[tuple[Pair, list[Any], list[Any]]],
) -> None:
    right = refused = 0
    for pair, old, new in cases:
        if not depends_on_the_session(pair):
            continue
        for value, wanted in zip(old, new, strict=True):
            got = converted_or_none(pair, value)
            if got is None:
                refused += 1
            else:
                assert got.equals(pa.array([wanted], arrow_type(pair.new))), (pair, value)
                right += 1
    assert right > 100
    assert refused > 500


def test_values_are_what_each_session_made_of_them() -> None:
    groups = defaultdict[tuple[str, ReorgSession], list[SessionCase]](list)
    for case in session_cases():
        if UNSTORABLE not in (case.value, case.wanted) and case.wanted is not FAILS:
            groups[case.pair, case.session].append(case)
    right = refused = 0
    for (pair, session), cases in groups.items():
        old, new = cases[0].old, cases[0].new
        wanted = pa.array([case.wanted for case in cases], arrow_type(new))
        values = pa.array([case.value for case in cases], arrow_type(old))
        kept = [i for i in range(len(cases)) if not _is_refused(values.slice(i, 1), cases[i])]
        got = convert_column(values.take(kept), old, new, pair, session)
        assert got.equals(wanted.take(kept)), (pair, session)
        right += len(kept)
        refused += len(cases) - len(kept)
    assert right > 55_000
    # TIMESTAMPs out of their range that keep a fraction, which TiDB does not print.
    assert refused < 60


def _is_refused(value: Any, case: SessionCase) -> bool:
    try:
        convert_column(value, case.old, case.new, "column c", case.session)
    except UnsupportedError:
        assert case.new.tp == MySQLType.TIMESTAMP
        return True
    return False


def test_what_the_store_has_no_place_for_is_refused() -> None:
    refused = 0
    for case in session_cases():
        if case.wanted is UNSTORABLE and case.value is not UNSTORABLE:
            with pytest.raises(UnsupportedError):
                _convert_case(case)
            refused += 1
    assert refused > 250


def _convert_case(case: SessionCase) -> None:
    value = pa.array([case.value], arrow_type(case.old))
    convert_column(value, case.old, case.new, "column c", case.session)


def test_rows_that_tidb_leaves_keep_their_values() -> None:
    seen = 0
    for pair in conversion_pairs("direct"):
        values = _some_values(pair)
        got = convert(pair, values)
        assert got.equals(pa.array(values, arrow_type(pair.new))), pair
        seen += 1
    assert seen > 30


def _some_values(pair: Pair) -> list[Any]:
    """Return old values of a pair with the same old type that has cases."""
    for other in conversion_pairs("reorg"):
        if other.old_name == pair.old_name and other.cases:
            return [None, *(stored_value(case[0], pair.old) for case in other.cases)]
    return [None]


def test_pairs_that_tidb_refuses_are_refused() -> None:
    refused = [
        pair
        for pair in conversion_pairs("refused")
        if not {pair.old.tp, pair.new.tp} <= STRING_TYPES  # those for their charsets
    ]
    assert len(refused) > 300
    for pair in refused:
        with pytest.raises(UnsupportedError, match=r"column c: a change of type from"):
            convert(pair, [None])


def test_captured_changes() -> None:
    changes = captured_changes()
    assert len(changes) == 5
    for change in changes:
        old, new = (pa.array(texts, pa.string()) for texts in zip(*change.values, strict=True))
        values = parse_column(old, change.old, change.name)
        converted = convert_column(values, change.old, change.new, change.name)
        assert format_column(converted, change.new).equals(new), change.name
