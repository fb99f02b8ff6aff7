"""Checks of a cluster that need no cluster."""

import pytest

from pyspark_theflash.cli.jobs import doctor
from pyspark_theflash.cli.jobs.doctor import NOTE, PROBLEM, table_problems, version_of
from pyspark_theflash.cli.main import main
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.fake_tikv import FakeTiKV
from tests.support.manual_clock import ManualClock
from tests.support.tls import options, tls


@pytest.mark.parametrize(
    ("text", "version"),
    [("6.5.0", (6, 5)), ("v8.5.1-alpha", (8, 5)), ("", None), ("None", None), ("7.x", None)],
)
def test_versions(text, version):
    assert version_of(text) == version


def test_columns_that_cannot_be_read():
    virtual = {"generated_expr_string": "sin(`id`)", "generated_stored": False}
    table = table_info(
        1,
        "d.t",
        [
            id_column(),
            column("s", MySQLType.DOUBLE, **virtual),
            column("g", MySQLType.NULL),
        ],
    )
    first, second = table_problems(table)
    assert (first.level, second.level) == (NOTE, PROBLEM)
    assert "d.t.s" in first.text
    assert "d.t.g" in second.text


def test_a_cluster_without_schema(capsys):
    with FakeTiKV() as tikv:
        assert main(["doctor", "--pd", tikv.pd.address]) == 1
    out = capsys.readouterr().out
    assert "ok      PD            cluster 77, of unknown version" in out
    assert out.count("ok      TiKV") == 3
    assert "GC safe point at" in out
    assert "problem cluster       TiKV is not available: it has no schema" in out


def test_a_pd_that_is_gone(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SystemClock", ManualClock)
    assert main(["doctor", "--pd", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().out.startswith("problem PD            PD at 127.0.0.1:1")


def test_a_cluster_with_tls(capsys, monkeypatch):
    with FakeTiKV(tls("server")) as tikv:
        assert main(["doctor", "--pd", tikv.pd.address, *options()]) == 1
        out = capsys.readouterr().out
        assert "ok      PD            cluster 77" in out
        assert out.count("ok      TiKV") == 3
        assert "problem cluster       TiKV is not available: it has no schema" in out
        monkeypatch.setattr(doctor, "SystemClock", ManualClock)
        for wrong in ([], options("other"), options(ca="other-ca")):
            assert main(["doctor", "--pd", tikv.pd.address, *wrong]) == 1
            assert capsys.readouterr().out.startswith("problem PD            PD at 127.0.0.1:")
