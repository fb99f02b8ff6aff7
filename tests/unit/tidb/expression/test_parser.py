"""Precedence, literals, and the limits of the parser."""

from decimal import Decimal

import pytest

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.expression.evaluate import parse
from pyspark_theflash.tidb.expression.parser import MAX_CALLS, MAX_DEPTH, parse_text
from pyspark_theflash.tidb.expression.syntax import Column, Literal, Node


def shown(node: Node) -> str:
    """Format a tree with every call in parentheses."""
    if isinstance(node, Literal):
        return repr(node.value)
    if isinstance(node, Column):
        return node.name
    return f"({' '.join([node.name, *map(shown, node.arguments)])})"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a + b * c", "(+ a (* b c))"),
        ("a - b - c", "(- (- a b) c)"),
        ("(a - b) - (c)", "(- (- a b) c)"),
        ("-a ^ b", "(^ (negate a) b)"),
        ("a ^ b * c", "(* (^ a b) c)"),
        ("a << b + c", "(<< a (+ b c))"),
        ("a | b & c << d", "(| a (& b (<< c d)))"),
        ("a = b + c", "(= a (+ b c))"),
        ("not a = b and c", "(and (not (= a b)) c)"),
        ("!a = b", "(= (not a) b)"),
        ("a or b xor c and d", "(or a (xor b (and c d)))"),
        ("a || b && c", "(or a (and b c))"),
        ("a is null = b", "(= (is null a) b)"),
        ("a is not true", "(not (is true a))"),
        ("a between b and c and d", "(and (between a b c) d)"),
        ("a not between 1 and 2", "(not (between a 1 2))"),
        ("a not in (1, 2)", "(not (in a 1 2))"),
        ("a like 'x%' escape '|'", "(like a 'x%' '|')"),
        ("a div b mod c", "(% (div a b) c)"),
        ("case a when 1 then 2 end", "(case (= a 1) 2 None)"),
        ("case when a then 2 else 3 end", "(case a 2 3)"),
        ("extract(year_month from a)", "(extract 'year_month' a)"),
        ("trim(a)", "(trim a ' ' 'both')"),
        ("trim(leading 'x' from a)", "(trim a 'x' 'leading')"),
        ("substring(a from 2 for 3)", "(substring a 2 3)"),
        ("YEAR(`D`)", "(year d)"),
        ("`t`.`A b``c`", "a b`c"),
        ("a collate utf8mb4_bin = 'b'", "(= (collate a 'utf8mb4_bin') 'b')"),
        ("- - a", "(negate (negate a))"),
    ],
)
def test_precedence(text: str, tree: str) -> None:
    assert shown(parse_text(text)) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551616", 2**64),
        ("1.50", Decimal("1.50")),
        (".5", Decimal(".5")),
        ("1e3", 1000.0),
        ("'it''s'", "it's"),
        (r"'a\nb\\c\'d\%'", "a\nb\\c'd\\%"),
        ('"x""y"', 'x"y'),
        ("_utf8mb4'v'", "v"),
        ("_utf8mb4 'v'", "v"),
        ("_binary'v'", b"v"),
        ("x'4142'", b"AB"),
        ("0x414", b"\x04\x14"),
        ("b'100000001'", b"\x01\x01"),
        ("_utf8mb4 x'C3A9'", "é"),
        ("null", None),
        ("TRUE", 1),
    ],
)
def test_literals(text: str, value: object) -> None:
    literal = parse_text(text)
    assert isinstance(literal, Literal)
    assert literal.value == value
    assert type(literal.value) is type(value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("rand()", "function RAND"),
        ("if(a, b)", "function IF of 2 arguments"),
        ("a -> '$.x'", "JSON operator"),
        ("json_extract(a, '$.x')", "function JSON_EXTRACT"),
        ("date_add(d, interval 1 day)", "INTERVAL"),
        ("cast(a as geometry)", "CAST as geometry"),
        ("a regexp 'x'", "function REGEXP"),
        ("a +", "expression text at a end"),
        ("a b", "expression text at 'b'"),
        ("a ; b", "expression text at character 1"),
        ("'secret' 'secret'", "expression text at a string"),
        ("(" * (MAX_DEPTH + 1) + "a", "nested more than 40 deep"),
        ("-" * 5000 + "a", "nested more than 40 deep"),
        ("a" + "+a" * (MAX_CALLS + 1), "more than 200 operations"),
        ("'" + "x" * 70000 + "'", "an expression of 70002 characters"),
        ("_utf8mb4 x'ff'", "not UTF-8"),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    with pytest.raises(UnsupportedError, match=r"shop\.item\.g") as refused:
        parse(text, "shop.item.g")
    assert what in str(refused.value)
    assert "secret" not in str(refused.value)


def test_columns_are_named_once() -> None:
    assert parse("`B` + a * `b`").columns == ("b", "a")
    assert parse("`a` + 1") is parse("`a` + 1")


@pytest.mark.parametrize("number", ["7" * 5000, f"0.{'7' * 5000}", "1e309", f"1e{'9' * 90}"])
def test_numbers_beyond_all_types(number: str) -> None:
    with pytest.raises(UnsupportedError, match="a number"):
        parse(f"a + {number}")


@pytest.mark.parametrize(
    "target",
    ["char(2.5)", "char('x')", "decimal(a, 2)", "binary(9999999999)", "date(null)", "time(7)"],
)
def test_types_of_no_size(target: str) -> None:
    with pytest.raises(UnsupportedError, match="a type of this size"):
        parse(f"cast(a as {target})")
