import pytest

from pyspark_theflash.base.errors import CodecError, CorruptionError, OptionError
from pyspark_theflash.replication.ticdc.csv_rows import named_columns, parse_csv, parse_schema
from tests.support.ticdc_tables import column as col
from tests.support.ticdc_tables import table_of

TS = 433305438660591626
TABLE = table_of(col("id", "LONGLONG"), col("s", "VARCHAR"), col("v", "LONG", generated="id + 1"))
NAMES = ("id", "s", "v")


def parsed(text, names=NAMES):
    (rows,) = parse_csv(text.encode(), "file", names)
    return rows


def values(rows):
    named = named_columns(rows, TABLE)
    assert named.names == ("id", "s")
    return list(zip(*(texts.to_pylist() for texts in named.texts), strict=True))


def test_the_rows_of_the_document():
    rows = parsed(f'"I","t","d",{TS},1,"a"\n"D","t","d",{TS + 1},1,"a"\n')
    assert (rows.full_name, rows.commit_ts.tolist()) == ("d.t", [TS, TS + 1])
    assert rows.is_delete.tolist() == [False, True]
    assert values(rows) == [("1", "a"), ("1", "a")]


def test_quotes_lines_and_nulls():
    texts = ['""""', '"a\r\nb,"', '"\\N"', "\\N", '""', '"1e5"']
    rows = parsed("".join(f'"U","t","d",{TS},{n},{text}\r\n' for n, text in enumerate(texts)))
    expected = ['"', "a\r\nb,", "\\N", None, "", "1e5"]
    assert values(rows) == [(str(n), text) for n, text in enumerate(expected)]


def test_old_values_and_header():
    meta = ["operation", "table", "schema", "commit-ts", "is-update"]
    header = ",".join([*(f"ticdc-meta${name}" for name in meta), "id", "s"])
    rows = parsed(f'{header}\n"D","t","d",{TS},true,1,"a"\n"I","t","d",{TS},true,1,"b"\n', ())
    assert values(rows) == [("1", "a"), ("1", "b")]


@pytest.mark.parametrize("line", ['"I","t","d",1,"a"', '"I","t","d",true,1,"a"'])
def test_the_commit_ts_is_required(line):
    with pytest.raises(OptionError, match="include-commit-ts=true"):
        parsed(line + "\n")


def test_a_number_in_the_place_of_the_commit_ts():
    """Only the number of columns shows that it is the first column of the table."""
    with pytest.raises(OptionError, match="include-commit-ts=true"):
        named_columns(parsed(f'"I","t","d",{TS},"a"\n'), TABLE)


def test_other_columns_than_in_the_schema():
    with pytest.raises(CodecError, match=r"4 columns of d\.t, but 2"):
        named_columns(parsed(f'"I","t","d",{TS},1,2,3,4\n'), TABLE)


@pytest.mark.parametrize(
    "text",
    [
        f'"X","t","d",{TS},1,"a"\n',
        f'"I","t","d",{TS},1,"a"\n"I","u","d",{TS},1,"a"\n',
        f'"I","t","d",{TS},1,"a"\n"I","t","d",{TS},1\n',
        f'"I","t","d",{TS},1,"a"\n\n',
        '"I"\n',
    ],
)
def test_damaged_rows(text):
    with pytest.raises(CorruptionError):
        parsed(text)


def test_schema_files():
    assert parse_schema(b'{"TableColumns":[{"ColumnName":"id"}]}', "f") == ("id",)
    with pytest.raises(CodecError):
        parse_schema(b'{"TableColumns":[{"ColumnName":1}]}', "f")
