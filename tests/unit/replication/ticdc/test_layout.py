import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.replication.ticdc.layout import parse_data_file, parse_schema_file

VERSION = "441349361156227074"


@pytest.mark.parametrize(
    ("path", "number", "table", "physical_id"),
    [
        (f"test/t1/{VERSION}/CDC000005.json", 5, "test/t1", None),
        (f"test/t1/{VERSION}/2022-01-02/CDC000005.csv", 5, "test/t1", None),
        (f"test/t1/{VERSION}/20/2022-01/CDC00000000000000000001.json", 1, "test/t1", 20),
        (f"test/t1/{VERSION}/20000/CDC000001.json", 1, "test/t1", 20000),
        (f"test/t1/{VERSION}/2022/CDC000001.json", 1, "test/t1", None),
        (f"test/t1/{VERSION}/20/2022/CDC000001.json", 1, "test/t1", 20),
        (f"114/{VERSION}/2022/CDC000001.json", 1, "114", 114),
        (f"114/{VERSION}/CDC000001.json", 1, "114", 114),
        (f"7/8/{VERSION}/CDC000001.json", 1, "7/8", None),
    ],
)
def test_files_of_rows(path, number, table, physical_id):
    file = parse_data_file(path)
    assert (file.number, file.table, file.physical_id) == (number, table, physical_id)
    assert file.version == int(VERSION)
    assert file.is_csv == path.endswith("csv")


def test_each_dispatcher_numbers_its_files():
    folder = f"test/t1/{VERSION}/2022-01-02"
    series = {
        parse_data_file(f"{folder}/{name}").series
        for name in ("CDC000001.json", "CDC_a-1_b_000001.json", "CDC_c_000001.json")
    }
    assert series == {folder, f"{folder}/a-1_b", f"{folder}/c"}


@pytest.mark.parametrize(
    "path",
    [
        "metadata",
        f"test/t1/{VERSION}/meta/CDC.index",
        f"test/t1/{VERSION}/2022-01-02/meta/CDC_d_.index",
        f"test/t1/meta/schema_{VERSION}_0123456789.json",
        f"test/t1/{VERSION}/CDC000001.json.tmp.8a",
    ],
)
def test_other_files(path):
    assert parse_data_file(path) is None


@pytest.mark.parametrize(
    "folder", ["", "test", "test/t1", "test/t1/12", f"test/{VERSION}", f"a/b/{VERSION}/c/d/e"]
)
def test_rows_in_unknown_places_are_not_skipped(folder):
    with pytest.raises(CodecError, match="not in the directory of a table version"):
        parse_data_file(f"{folder}/CDC000001.json")


def test_schema_files():
    assert parse_schema_file(f"a/b/meta/schema_{VERSION}_0123456789.json") == ("a/b", int(VERSION))
    assert parse_schema_file(f"7/meta/schema_{VERSION}_0123456789.json") == ("7", int(VERSION))
    assert parse_schema_file("a/b/meta/schema.json") is None
