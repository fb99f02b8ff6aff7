r"""Rows of Dumpling: the values are those that its writer escaped.

`sql_row` and `csv_row` follow Dumpling's escapeBackslashSQL, escapeBackslashCSV and escapeCSV.
"""

import random

import pytest

from pyspark_theflash.replication.base.dump_text import CsvText, DumpFormat, SqlText

VALUES = [
    None,
    b"",
    b"\\N",
    b"N",
    b"NULL",
    b"'",
    b'"',
    b"''",
    b'""',
    b"\\",
    b"\\\\",
    b"a\\'",
    b"');\n",
    b"\r\n",
    b"\x1a\0\t",
    b"|+|",
    b"+|",
    b",",
    b"nil",
    b"n\\n",
    "é\U0001f600".encode(),
    bytes(range(256)),
    b"-1.5e-30",
    b"0",
]
STATEMENT = b"INSERT INTO `t` VALUES\n"


def sql_value(value, *, escape):
    if value is None:
        return b"NULL"
    if not escape:
        return b"'" + value.replace(b"'", b"''") + b"'"
    names = {0: b"0", 10: b"n", 13: b"r", 92: b"\\", 39: b"'", 34: b'"', 26: b"Z"}
    return b"'" + b"".join(escaped(value, names)) + b"'"


def csv_value(value, form):
    if value is None:
        return form.null_value
    delimiter = form.delimiter
    if form.escape_backslash:
        special = (delimiter or form.separator)[0]
        names = {0: b"0", 10: b"n", 13: b"r", 92: b"\\", special: bytes([special])}
        value = b"".join(escaped(value, names))
    else:
        value = value.replace(delimiter, delimiter * 2)
    return delimiter + value + delimiter


def escaped(value, names):
    return [b"\\" + names[byte] if byte in names else bytes([byte]) for byte in value]


def random_rows(width):
    draw = random.Random(width)
    return [[draw.choice(VALUES) for _ in range(width)] for _ in range(200)]


@pytest.mark.parametrize("escape", [True, False])
@pytest.mark.parametrize("width", [1, 3])
def test_sql(escape, width):
    rows = random_rows(width)
    text = SqlText(DumpFormat(escape_backslash=escape))
    lines = [b"(" + b",".join(sql_value(v, escape=escape) for v in row) + b")" for row in rows]
    body = STATEMENT + b",\n".join(lines[:120]) + b";\n" + STATEMENT + b",\n".join(lines[120:])
    parsed = text.rows(body + b";\n", width, STATEMENT, is_inside=False)
    assert list(map(list, zip(*parsed.columns, strict=True))) == rows
    assert (parsed.end, parsed.is_inside) == (len(body) + 2, False)


@pytest.mark.parametrize(
    "form",
    [
        DumpFormat(),
        DumpFormat(null_value=b"nil"),
        DumpFormat(null_value=b""),
        DumpFormat(escape_backslash=False),
        DumpFormat(separator=b"|+|", delimiter=b""),
        DumpFormat(separator=b"\t", delimiter=b"'", escape_backslash=False),
        DumpFormat(separator=b"|+|", delimiter=b'""'),
    ],
    ids=repr,
)
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("width", [1, 3])
def test_csv(form, end, width):
    form.check()
    rows, text = random_rows(width), CsvText(form)
    names = [b'col"\n', b"b", b"c,d"][:width]
    lines = [form.separator.join(csv_value(v, form) for v in row) + end for row in [names, *rows]]
    body = b"".join(lines)
    head = text.head(body, width)
    assert head is not None
    assert head.columns == tuple(name.decode() for name in names)
    parsed = text.rows(body[head.end :], width, b"", is_inside=False)
    assert list(map(list, zip(*parsed.columns, strict=True))) == rows
    assert parsed.end == len(body) - head.end


def test_numbers_and_bytes():
    body = b"(-1,1.50,1e+21,-2e-30,x'',x'00ff'),\n"
    parsed = SqlText(DumpFormat()).rows(body, 6, STATEMENT, is_inside=True)
    numbers = [b"-1", b"1.50", b"1e+21", b"-2e-30"]
    assert [column[0] for column in parsed.columns] == [*numbers, b"", b"\0\xff"]
    assert parsed.is_inside


@pytest.mark.parametrize(
    "row",
    [b"(1,)", b"(1,2)x", b"(a)", b"('\\q')", b"(x'0')", b"(1.)", b"(null)", b"('a''b')", b"( 1)"],
)
def test_rows_in_another_form(row):
    parsed = SqlText(DumpFormat()).rows(row + b",\n", 1, STATEMENT, is_inside=True)
    assert parsed.count == 0
    assert SqlText(DumpFormat()).is_malformed(row + b",\n", STATEMENT, is_inside=True)


def test_names_of_columns():
    text = SqlText(DumpFormat())
    head = text.head(b"/*!40101 SET NAMES binary*/;\nINSERT INTO `a``b` (`c,d`,`e```) VALUES\n(", 2)
    assert head is not None
    assert (head.table, head.columns, head.lines) == ("a`b", ("c,d", "e`"), 1)
