"""The jar's own functions: failing and lying servers, engine processes, secrets, the catalog."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pyspark
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException

from pyspark_theflash.errors import SparkStartedError
from pyspark_theflash.service.client.embedded import socket_path
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.server import session
from pyspark_theflash.spark.jar import JAR
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.processes import engines, wait_until
from tests.support.serving import serving, serving_secured
from tests.support.sources import server_options
from tests.support.tls import FOLDER

T = table_info(1, "d.t", [id_column(), column("name", MySQLType.VARCHAR, comment="who")])
OTHER = table_info(2, "other.u", [id_column()])
ROWS = [(n, 150, (n, f"name {n}")) for n in range(1, 101)]
TOKEN = "a-token-that-may-read"
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def builder(tmp_path):
    made = StoreBuilder(tmp_path / "store", T, OTHER)
    return made.publish(200, {T: ROWS, OTHER: [(1, 150, (1,))]})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = StoreBuilder(tmp_path_factory.mktemp("jar") / "store", T, OTHER)
    return made.publish(200, {T: ROWS, OTHER: [(1, 150, (1,))]}).path


@pytest.fixture
def load(spark):
    def load(table="d.t", **options):
        return spark.read.format("theflash").options(**options).load(table)

    return load


@pytest.fixture
def secured(store, tmp_path):
    with serving_secured(store, tmp_path) as server:
        yield server_options(server.address)


def test_a_table_of_sparks_own_catalog(spark, builder):
    options = f"OPTIONS (STORE '{builder.path}', table 'd.t')"
    spark.sql(f"CREATE TABLE replica USING theflash {options}")
    try:
        table = spark.table("replica")
        assert [(f.name, f.dataType.simpleString()) for f in table.schema] == [
            ("id", "bigint"),
            ("name", "string"),
        ]
        query = "SELECT count(*), max(name) FROM replica WHERE id > 98"
        assert spark.sql(query).collect() == [(2, "name 99")]
        builder.publish(300, {T: [(101, 250, (101, "new"))]})
        assert spark.sql(query).collect() == [(3, "new")]
        with pytest.raises(AnalysisException, match="writing with Spark is not supported"):
            spark.sql("INSERT INTO replica SELECT * FROM replica")
    finally:
        spark.sql("DROP TABLE replica")


def test_a_table_of_sparks_own_catalog_with_an_unknown_option(spark, store):
    options = f"OPTIONS (store '{store}', table 'd.t', tabel 'd.t')"
    with pytest.raises(AnalysisException, match="OptionError: option 'tabel': there is no such"):
        spark.sql(f"CREATE TABLE misspelt USING theflash {options}")


def test_a_session_with_the_jar_is_configured_again_and_one_without_it_is_not(
    spark, store, monkeypatch
):
    from pyspark_theflash.spark import jar

    builder = type(spark).builder
    again = jar.configure_spark(builder, catalog="late", store=store).getOrCreate()
    assert again.sql("SELECT count(*) FROM late.d.t").head() == (len(ROWS),)
    described = {row[0]: row[1] for row in again.sql("DESCRIBE EXTENDED late.d.t").collect()}
    assert described["Table Properties"] == "[primary_key=id,snapshot_ts=200]"
    monkeypatch.setattr(jar, "PROVIDER_CLASS", "io.theflash.Nothing")
    with pytest.raises(SparkStartedError, match=r"application local-\d+ already runs without"):
        jar.configure_spark(builder)


# -- servers that are not there, or do not let us in


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"store": "theflash://localhost:1"}, "ServiceUnavailableError: localhost:1 is not avail"),
        ({"store": "theflash://localhost"}, "OptionError: option 'address'"),
        ({"token": "not-one-of-the-tokens"}, "AuthenticationError: .*this token is not valid"),
        ({"token": "short"}, "OptionError: option 'token': is not of 16 or more"),
        ({"token": None}, "AuthenticationError: .*it wants a token, and none is given"),
        ({"tls_ca": str(FOLDER / "other-ca.pem")}, "AuthenticationError: .*TLS: "),
        ({"tls_ca": "/no/where"}, "OptionError: option 'tls_ca': cannot read /no/where"),
        ({"tls_key": None}, "OptionError: option 'tls': a certificate and its key"),
        ({"tls_key": str(FOLDER / "other.key")}, "(OptionError|AuthenticationError): "),
        ({"tls_cert": None, "tls_key": None}, "(AuthenticationError|ServiceUnavailableError): "),
        ({"token_file": "/a/file"}, "OptionError: option 'token_file': cannot be given together"),
    ],
)
def test_who_is_not_let_in_is_told_why(load, secured, changed, text):
    options = {name: value for name, value in (secured | changed).items() if value is not None}
    with pytest.raises(AnalysisException, match=text):
        load(**options)


def test_options_of_servers_mean_nothing_for_folders(load, store):
    with pytest.raises(AnalysisException, match="'token': is for servers, and the store is a fold"):
        load(store=store, token=TOKEN)


def test_token_in_a_file(load, secured, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    del secured["token"]
    assert load(**secured, token_file=file).count() == len(ROWS)
    file.chmod(0o640)
    with pytest.raises(AnalysisException, match=r"'token_file': .* can be read by other users"):
        load(**secured, token_file=file)


def test_secrets_are_not_shown(load, secured, capfd):
    frame = load(**secured)
    shown = frame._jdf.queryExecution().toString() + frame._jdf.queryExecution().logical().toJSON()
    frame.explain("extended")
    assert TOKEN not in shown + capfd.readouterr().out
    assert "theflash d.t at 200" in shown


# -- servers that fail in the middle


def cut(self, called, request, call):
    """A server that ends in the middle of a stream."""
    whole = self._link.send_data

    def send_data(*arguments):
        whole(*arguments)
        self._link.close()

    self._link.send_data = send_data
    ORIGINAL(self, called, request, call)


def lie(self, called, request, call):
    """A server that announces more rows than it sends."""

    def end(encoder):
        true = END(encoder)
        return replace(true, rows=true.rows + 1)

    with patch.object(session.StreamEncoder, "end", end):
        ORIGINAL(self, called, request, call)


ORIGINAL = session.ConnectionSession._stream
END = session.StreamEncoder.end


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        (cut, "StreamCutError: .*in the middle of an answer"),
        (lie, r"StreamCutError: .*101 rows were announced, 100 were received"),
    ],
)
def test_a_stream_that_is_not_whole_is_no_answer(load, store, tmp_path, monkeypatch, behave, text):
    monkeypatch.setattr(session.ConnectionSession, "_stream", behave)
    with serving(store, f"unix:{tmp_path}/s") as server:
        frame = load(store=server.address, pushdown="false")
        with pytest.raises(Py4JJavaError, match=text):
            frame.collect()


def test_what_fails_before_the_first_rows_is_tried_again(load, store, tmp_path, monkeypatch):
    calls = []

    def once_cut(self, called, request, call):
        calls.append(call)
        if len(calls) < 3:
            self._link.close()
            raise EOFError
        ORIGINAL(self, called, request, call)

    monkeypatch.setattr(session.ConnectionSession, "_stream", once_cut)
    with serving(store, f"unix:{tmp_path}/s") as server:
        assert len(load(store=server.address, pushdown="false").collect()) == len(ROWS)
    assert len(calls) == 3


def test_a_server_that_was_started_anew(load, store, tmp_path):
    address = f"unix:{tmp_path}/s"
    for _ in range(2):
        with serving(store, address):
            assert load(store=address).count() == len(ROWS)
    with pytest.raises(AnalysisException, match="ServiceUnavailableError"):
        load(store=address)


def test_a_frame_goes_on_with_a_server_that_was_started_anew(load, store, tmp_path):
    address = f"unix:{tmp_path}/s"
    with serving(store, address):
        frame = load(store=address)
        assert frame.count() == len(ROWS)
    with serving(store, address):
        assert frame.where("id > 50").count() == 50


# -- engine processes


@pytest.mark.slow
def test_an_engine_process_is_found_started_anew_and_ends(load, builder):
    store = builder.path
    frame = load(store=store)
    assert frame.count() == len(ROWS)
    (first,) = engines(store)
    os.kill(first, signal.SIGKILL)
    assert frame.where("id > 50").count() == 50
    (second,) = engines(store)
    assert second != first
    wait_until(lambda: not engines(store), 90_000)
    assert not socket_path(store).exists()


PROBE = """
import io.theflash.spark.*;
public class Probe {
  public static void main(String[] of) {
    System.out.print(Engine.address(new Folder(of[0], of[1], scala.Option.apply("5"))));
  }
}
"""


def test_files_in_the_working_directory_are_not_executed(builder, tmp_path):
    folder = tmp_path / "work"
    (folder / "extra").mkdir(parents=True)
    for name in ("argparse", "json", "runpy", "sitecustomize"):
        (folder / f"{name}.py").write_text("import os\nos.abort()")
    (folder / "extra" / "sitecustomize.py").write_text(f"open({str(folder / 'seen')!r}, 'w')")
    (folder / "Probe.java").write_text(PROBE)
    jars = f"{JAR}:{Path(pyspark.__file__).parent}/jars/*"
    command = ["java", "-cp", jars, "Probe.java", str(builder.path), sys.executable]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f":extra:{PROJECT}:"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == f"unix:{socket_path(builder.path)}", done.stderr
    assert (folder / "seen").exists()


# -- the catalog


@pytest.fixture
def flash(spark, store, tmp_path):
    """A catalog of the store, at a server."""
    with serving(store, f"unix:{tmp_path}/s") as server:
        spark.conf.set("spark.sql.catalog.flash", "io.theflash.spark.TheFlashCatalog")
        spark.conf.set("spark.sql.catalog.flash.store", server.address)
        yield spark
        spark.conf.unset("spark.sql.catalog.flash")
        spark._jsparkSession.sessionState().catalogManager().reset()


def test_catalog(flash):
    assert [tuple(r) for r in flash.sql("SHOW NAMESPACES IN flash").collect()] == [
        ("d",),
        ("other",),
    ]
    assert [r.tableName for r in flash.sql("SHOW TABLES IN flash.d").collect()] == ["t"]
    described = {
        r.col_name: (r.data_type, r.comment) for r in flash.sql("DESCRIBE flash.d.t").collect()
    }
    assert described["name"] == ("string", "who")
    assert flash.sql("SELECT count(*) FROM flash.d.t").head() == (100,)
    assert flash.sql("SELECT count(*) FROM flash.d.t VERSION AS OF 149").head() == (0,)
    assert flash.table("flash.other.u").count() == 1
    with pytest.raises(AnalysisException, match="TABLE_OR_VIEW_NOT_FOUND"):
        flash.sql("SELECT * FROM flash.d.nope")
    with pytest.raises(AnalysisException, match="SCHEMA_NOT_FOUND"):
        flash.sql("SHOW TABLES IN flash.nope")


def test_when_a_time_in_sql_is(flash):
    """A text is in the session's time zone, unless it has one, as everywhere in Spark's SQL."""
    before = flash.conf.get("spark.sql.session.timeZone")
    flash.conf.set("spark.sql.session.timeZone", "Asia/Shanghai")
    try:
        for moment, utc in [
            ("TIMESTAMP AS OF '2024-01-01 09:05:30.25'", "2024-01-01T01:05:30.250Z"),
            ("TIMESTAMP AS OF '2024-01-01 09:05:30.25Z'", "2024-01-01T09:05:30.250Z"),
            ("VERSION AS OF '2024-01-01 09:05:30.25+01:00'", "2024-01-01T08:05:30.250Z"),
        ]:
            with pytest.raises(
                AnalysisException, match=rf"NotCaughtUpError: timestamp \d+ \({utc}"
            ):
                flash.sql(f"SELECT * FROM flash.d.t {moment}")
    finally:
        flash.conf.set("spark.sql.session.timeZone", before)
    for text, why in [
        ("'2024-01-01 09:05:30'", "has no time zone"),
        ("1709164800000", "looks like milliseconds"),
        (str(2**64 - 1), "is not a TSO"),
    ]:
        with pytest.raises(AnalysisException, match=f"'versionAsOf': .*{why}"):
            flash.sql(f"SELECT * FROM flash.d.t VERSION AS OF {text}")


@pytest.mark.parametrize("name", ["snapshot_ts", "versionAsOf", "timestampAsOf"])
def test_a_catalog_of_one_moment(flash, name):
    """Its list of tables is of that timestamp, by each name of the option."""
    flash.conf.set(f"spark.sql.catalog.flash.{name}", "1970-01-01T00:00:01Z")
    try:
        with pytest.raises(Exception, match="NotCaughtUpError"):
            flash.sql("SHOW TABLES IN flash.d").collect()
    finally:
        flash.conf.unset(f"spark.sql.catalog.flash.{name}")


def test_a_catalog_takes_no_token(spark):
    spark.conf.set("spark.sql.catalog.showing", "io.theflash.spark.TheFlashCatalog")
    spark.conf.set("spark.sql.catalog.showing.Token", TOKEN)
    try:
        with pytest.raises(AnalysisException, match=r"'token': is not for a catalog.*token_file"):
            spark.sql("SHOW NAMESPACES IN showing").collect()
    finally:
        spark.conf.unset("spark.sql.catalog.showing")
        spark.conf.unset("spark.sql.catalog.showing.Token")


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE flash.d.t",
        "CREATE TABLE flash.d.new (a int)",
        "ALTER TABLE flash.d.t ADD COLUMN a int",
        "ALTER TABLE flash.d.t RENAME TO d.s",
        "INSERT INTO flash.d.t VALUES (1, 'x')",
        "CREATE NAMESPACE flash.new",
        "DROP NAMESPACE flash.d",
    ],
)
def test_catalog_takes_no_writes(flash, statement):
    with pytest.raises(AnalysisException, match=r"UnsupportedError: .*writing with Spark"):
        flash.sql(statement)


def test_tables_of_a_statement_are_of_one_moment(spark, builder, tmp_path):
    """Beside a writer each of whose publications adds a row to both tables."""
    done = threading.Event()

    def write():
        for n in range(1000):
            if done.is_set():
                return
            ts = 300 + 10 * n
            rows = {
                T: [(1000 + n, ts - 5, (1000 + n, "x"))],
                OTHER: [(1000 + n, ts - 5, (1000 + n,))],
            }
            builder.publish(ts, rows)

    with serving(builder.path, f"unix:{tmp_path}/s") as server:
        spark.conf.set("spark.sql.catalog.moving", "io.theflash.spark.TheFlashCatalog")
        spark.conf.set("spark.sql.catalog.moving.store", server.address)
        writer = threading.Thread(target=write)
        writer.start()
        query = (
            "SELECT (SELECT count(*) FROM moving.d.t), count(*), "
            "(SELECT max(id) FROM moving.d.t), max(id) FROM moving.other.u"
        )
        try:
            seen = [tuple(spark.sql(query).head()) for _ in range(5)]
        finally:
            done.set()
            writer.join()
            spark._jsparkSession.sessionState().catalogManager().reset()
    assert len(set(seen)) > 1
    assert all(left == right + 99 and top == other for left, right, top, other in seen[1:])


def test_statistics(load, builder, tmp_path):
    """Rows that are not in a region's own files yet count as well."""
    with serving(builder.path, f"unix:{tmp_path}/s") as server, connect(server.address) as api:

        def stats():
            return load(store=server.address)._jdf.queryExecution().optimizedPlan().stats()

        assert int(str(stats().rowCount().get())) == len(ROWS)
        assert 0 < int(str(stats().sizeInBytes())) < 100_000
        api.compact()
        assert int(str(stats().rowCount().get())) == len(ROWS)
        assert 0 < int(str(stats().sizeInBytes())) < 100_000
