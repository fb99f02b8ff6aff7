"""`configure_spark`: the settings of a session that uses the jar."""

import sys
import zipfile

import pytest

pytest.importorskip("pyspark")

from pyspark_theflash.base.errors import OptionError, SparkStartedError
from pyspark_theflash.spark import jar


@pytest.fixture
def built(tmp_path, monkeypatch):
    file = tmp_path / "the.jar"
    file.write_bytes(b"")
    monkeypatch.setattr(jar, "JAR", file)
    return file


def test_conf(built):
    assert jar.spark_conf("", "theflash", None, {}) == {
        "spark.jars": str(built),
        "spark.theflash.python": sys.executable,
    }


def test_catalog(built):
    conf = jar.spark_conf("/a.jar", "tidb", "/s", {"zero_dates": "null"})
    assert conf == {
        "spark.jars": f"/a.jar,{built}",
        "spark.theflash.python": sys.executable,
        "spark.sql.catalog.tidb": "io.theflash.spark.TheFlashCatalog",
        "spark.sql.catalog.tidb.store": "/s",
        "spark.sql.catalog.tidb.zero_dates": "null",
    }


def test_an_installation_without_a_jar_says_so(built):
    built.unlink()
    with pytest.raises(OptionError, match=r"the\.jar does not exist"):
        jar.spark_conf("", "theflash", None, {})


@pytest.mark.parametrize("name", ["token", "Token"])
def test_a_token_is_not_put_on_the_command_line(built, name):
    with pytest.raises(OptionError, match=r"'token': would be on the command line.*token_file"):
        jar.spark_conf("", "theflash", "theflash://h:1", {name: "a-token-that-may-read"})


def test_an_archive_has_no_jar_that_spark_could_load(built, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "package.zip", "w"):
        monkeypatch.setattr(jar, "JAR", tmp_path / "package.zip" / "jars" / "the.jar")
    with pytest.raises(OptionError, match=r"from the archive .*package\.zip .*--jars"):
        jar.spark_conf("", "theflash", None, {})


def test_a_server_of_spark_connect_loads_the_jar_itself(built, monkeypatch):
    from pyspark.sql import SparkSession

    monkeypatch.setenv("SPARK_REMOTE", "sc://far:15002")
    with pytest.raises(SparkStartedError, match="Connect at sc://far:15002 already runs without"):
        jar.configure_spark(SparkSession.builder)
