"""Cases that the captured columns do not contain: failures, branches, shapes."""

import pickle
from decimal import Decimal

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import InternalError, UnrepresentableValueError, UnsupportedError
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.expression.evaluate import evaluate, evaluate_integers, parse

BIGINT = FieldType(MySQLType.LONGLONG)
UNSIGNED = FieldType(MySQLType.LONGLONG, ColumnFlag.UNSIGNED)
WIDE = FieldType(MySQLType.NEWDECIMAL, 0, 65, 0)
TEXT = FieldType(MySQLType.VARCHAR, 0, 40, -1, "utf8mb4", "utf8mb4_bin")
GENERAL_CI = FieldType(MySQLType.VARCHAR, 0, 40, -1, "utf8mb4", "utf8mb4_general_ci")
DOUBLE = FieldType(MySQLType.DOUBLE)
TIME = FieldType(MySQLType.TIME)
COLUMNS = {
    "a": (pa.array([1, 2**62, None, -5], pa.int64()), BIGINT),
    "u": (pa.array([1, 2**64 - 1, None, 7], pa.uint64()), UNSIGNED),
    "s": (pa.array(["x", "X", None, "x "]), TEXT),
    "c": (pa.array(["x", "X", None, "x "]), GENERAL_CI),
    "t": (pa.array([1, 2, None, 3], pa.duration("us")), TIME),
    "j": (pa.array([b"", b"", None, b""]), FieldType(MySQLType.JSON)),
}


def values(text: str, result: FieldType = WIDE) -> list[object]:
    return evaluate(parse(text, "db.t.g"), COLUMNS, result, "db.t.g").to_pylist()


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a * 4", "BIGINT"),
        ("a - 2 * u", "BIGINT UNSIGNED"),
        ("u + 1", "BIGINT UNSIGNED"),
        ("-u", "BIGINT"),
        ("abs(a - 9223372036854775807 - 1)", "BIGINT"),
        ("1e308 * 10 * a", "DOUBLE"),
    ],
)
def test_overflow_is_an_error_as_in_tidb(text: str, form: str) -> None:
    with pytest.raises(UnrepresentableValueError) as refused:
        values(text)
    assert (refused.value.column, refused.value.form) == ("db.t.g", form)


def test_a_branch_not_taken_cannot_fail() -> None:
    assert values("if(a > 100, 0, a * 4)") == [4, 0, None, -20]
    assert values("case when a > 100 then null when a < 0 then a else a * 4 end") == [
        *(4, None, None, -5),
    ]
    assert values("coalesce(if(a > 100, 1, null), a * 4)") == [4, 1, None, -20]


def test_arithmetic_is_exact_beyond_64_bits() -> None:
    product = 2**62 * (2**64 - 1)
    assert values("cast(a as decimal(30)) * u") == [1, product, None, -35]
    assert values("a div 0") == [None] * 4
    assert values("(a * 1.5) % 1") == [Decimal(1), Decimal(0), None, Decimal(-1)]


def test_strings_compare_by_their_collation() -> None:
    assert values("s = 'x'", BIGINT) == [1, 0, None, 1]
    assert values("c collate utf8mb4_bin = 'x'", BIGINT) == [1, 0, None, 1]
    # Of two columns, _bin decides.
    assert values("s = c", BIGINT) == values("s = c collate utf8mb4_bin", BIGINT)
    for text in ("c like 'x'", "c collate utf8mb4_unicode_ci = c collate utf8mb4_general_ci"):
        with pytest.raises(UnsupportedError, match="collation"):
            values(text, BIGINT)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("year(t)", "a TIME used as a DATETIME"),
        ("j + 1", "a column of type JSON"),
        ("s like s", "an argument that is not a constant"),
        ("nosuch + 1", "column nosuch"),
        ("extract(week from s)", "EXTRACT(WEEK)"),
        ("round(cast(a as decimal(20)), a)", "ROUND"),
        ("to_days('2020-01-01 + 1')", "a date text"),
        ("concat(cast(1e300 as float))", "a FLOAT beyond 32 bits as text"),
    ],
)
def test_what_is_lacking_is_named_with_its_place(text: str, what: str) -> None:
    with pytest.raises(UnsupportedError, match=r"db\.t\.g") as refused:
        values(text)
    assert what in str(refused.value)


def test_constants_have_as_many_rows_as_asked_for() -> None:
    assert evaluate(parse("1 + 1"), {}, BIGINT, "t", rows=3).to_pylist() == [2, 2, 2]
    with pytest.raises(InternalError):
        evaluate(parse("1 + 1"), {}, BIGINT, "t")


def test_no_rows() -> None:
    none = {"a": (pa.array([], pa.int64()), BIGINT)}
    assert evaluate(parse("concat(a, 'x')"), none, TEXT, "t").equals(pa.array([], pa.string()))


def test_integers_keep_their_sign() -> None:
    values, null = evaluate_integers(parse("u"), COLUMNS, 4, "t")
    assert values.dtype == "uint64"
    assert values.tolist()[1] == 2**64 - 1
    assert null.tolist() == [False, False, True, False]


def test_slices_of_arrays() -> None:
    part = {n: (v.slice(1, 3), t) for n, (v, t) in COLUMNS.items()}
    assert evaluate(parse("a - 1"), part, BIGINT, "t").to_pylist() == [2**62 - 1, None, -6]
    assert evaluate(parse("concat(s, t)"), part, TEXT, "t").to_pylist() == [
        *("X00:00:00", None, "x 00:00:00"),
    ]


def test_an_expression_survives_pickle() -> None:
    expression = parse("cast(`a` as char(3)) + 1.5")
    assert pickle.loads(pickle.dumps(expression)) == expression


@pytest.mark.parametrize("digits", ["7" * 5000, "0" * 5000 + "12", "-" + "7" * 5000])
def test_texts_of_thousands_of_digits(digits: str) -> None:
    """Python's `int` parses some thousand digits only."""
    columns = {"s": (pa.array([digits]), TEXT)}
    (value,) = evaluate(parse("cast(s as signed)"), columns, WIDE, "x").to_pylist()
    # A value that is too large becomes the maximum of BIGINT UNSIGNED, with the bits of -1.
    assert value == (-1 if Decimal(digits) > 2**63 else max(-(2**63), Decimal(digits)))


def test_a_fraction_of_thousands_of_digits() -> None:
    columns = {"s": (pa.array(["0." + "4" * 5000, "0.5" + "0" * 5000]), TEXT)}
    cast = "cast(s as decimal(10, 0))"
    assert evaluate(parse(cast), columns, WIDE, "x").to_pylist() == [0, 1]


def test_round_to_any_number_of_digits() -> None:
    """10 to its power neither exhausts memory nor warns of an overflow."""
    wide = FieldType(MySQLType.LONGLONG)
    columns = {"d": (pa.array([-(2**63), 400, 2**62]), wide), "r": (pa.array([1.5] * 3), DOUBLE)}
    assert evaluate(parse("round(r, d)"), columns, DOUBLE, "x").to_pylist() == [0, 1.5, 1.5]
    least = "-9223372036854775807"
    assert evaluate(parse(f"round(1.5, {least})"), columns, WIDE, "x").to_pylist() == [0] * 3


def test_trim_of_a_long_text() -> None:
    """The rest is not copied for each removed `x`."""
    columns = {"s": (pa.array(["x" * 2_000_000 + "y", "yx"]), TEXT)}
    assert evaluate(parse("trim('x' from s)"), columns, TEXT, "x").to_pylist() == ["y", "y"]
