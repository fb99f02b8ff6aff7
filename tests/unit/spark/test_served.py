"""The data source as a plain object, reading from a server with TLS and a token."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql.types import StringType, StructField, StructType

import pyspark_theflash
from pyspark_theflash.base.errors import (
    AuthenticationError,
    LeaseExpiredError,
    OptionError,
    ServiceUnavailableError,
    TableNotFoundError,
)
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.spark.place import Place
from pyspark_theflash.spark.reader import arrow_schema
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support import every_type
from tests.support.serving import ROLES_TOKEN, serving, serving_secured
from tests.support.sources import server_options
from tests.support.tls import FOLDER

T = table_info(1, "d.t", [id_column(), column("name", MySQLType.VARCHAR, comment="who")])
EMPTY = table_info(2, "d.empty", [id_column()])


@pytest.fixture
def builder(tmp_path):
    rows = {
        T: [(1, 150, (1, "one")), (2, 160, (2, "two")), (1, 170, None)],
        every_type.TABLE: every_type.VERSIONS,
    }
    return StoreBuilder(tmp_path / "store", T, EMPTY, every_type.TABLE).publish(200, rows)


@pytest.fixture
def place(builder, tmp_path):
    with serving_secured(builder.path, tmp_path) as server:
        yield server_options(server.address)


def source(place, table="d.t", **options):
    texts = {**place, "path": table, **{k: str(v) for k, v in options.items()}}
    return pyspark_theflash.DefaultSource(texts)


def read(made, schema=None):
    """The rows as Spark gets them; everything goes through pickle where Spark does that."""
    wanted = schema or made.schema()
    reader = pickle.loads(pickle.dumps(made)).reader(wanted)
    partitions = [pickle.loads(pickle.dumps(p)) for p in reader.partitions()]
    reader = pickle.loads(pickle.dumps(reader))
    batches = [batch for partition in partitions for batch in reader.read(partition)]
    return pa.Table.from_batches(batches, arrow_schema(wanted)).to_pylist()


def test_rows_of_a_moment(place, builder):
    made = source(place)
    builder.publish(300, {T: [(3, 250, (3, "three"))]})
    assert read(made) == [{"id": 2, "name": "two"}]
    assert read(source(place, snapshot_ts=150)) == [{"id": 1, "name": "one"}]
    assert read(source(place, where="id > 2")) == [{"id": 3, "name": "three"}]
    assert read(source(place, "d.empty")) == []
    schema = StructType([StructField("name", StringType())])
    assert read(source(place, columns="NAME,id", where="id = 2"), schema) == [{"name": "two"}]


@pytest.mark.parametrize("options", [{}, {"all_as_text": "true"}, {"zero_dates": "string"}])
@pytest.mark.parametrize("table", ["d.t", "d.every_type", "d.t$files"])
def test_schema_and_rows_are_those_of_the_folder(place, builder, table, options):
    here = source({"store": str(builder.path)}, table, **options)
    there = source(place, table, **options)
    assert there.schema() == here.schema()
    assert [f.metadata for f in there.schema()] == [f.metadata for f in here.schema()]
    assert sorted(read(there), key=repr) == sorted(read(here), key=repr)


def test_a_task_that_comes_late_plans_anew(place, builder):
    made = source(place)
    reader = made.reader(made.schema())
    (partition,) = reader.partitions()
    builder.end_leases()
    builder.publish(300, {T: [(2, 250, (2, "changed")), (3, 250, (3, "three"))]})
    rows = [row for batch in reader.read(partition) for row in batch.to_pylist()]
    assert rows == [{"id": 2, "name": "two"}]
    builder.end_leases()
    partition.regions |= {99}
    with pytest.raises(LeaseExpiredError):
        next(reader.read(partition))


def test_what_is_planned_pins_and_what_is_empty_does_not(place, builder):
    def latches():
        with connect(builder.path) as store:
            return store.latches().latches

    made = source(place, "d.empty")
    assert made.reader(made.schema()).partitions() == []
    assert not latches()
    made = source(place)
    assert len(made.reader(made.schema()).partitions()) == 1
    assert [latch.snapshot_ts for latch in latches()] == [200]


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"store": "theflash://localhost:1"}, ServiceUnavailableError, "localhost:1 is not avail"),
        ({"store": "theflash://localhost"}, OptionError, "'address'"),
        ({"token": "not-one-of-the-tokens"}, AuthenticationError, "this token is not valid"),
        ({"token": "short"}, OptionError, "option 'token': must have 16 or more"),
        ({"token": None}, AuthenticationError, "the server requires a token"),
        ({"tls_ca": str(FOLDER / "other-ca.pem")}, AuthenticationError, "cannot be trusted"),
        ({"tls_ca": "/no/where"}, OptionError, "option 'tls_ca': cannot read /no/where"),
        ({"tls_key": None}, OptionError, "option 'tls': a certificate and its key"),
        ({"tls_key": str(FOLDER / "other.key")}, OptionError, "option 'tls': cannot use"),
        ({"tls_ca": None}, OptionError, "option 'tls_ca': is missing"),
        ({"token_file": "/a/file"}, OptionError, "'token_file': cannot be given together"),
        ({"token": None, "token_file": "/no"}, OptionError, "option 'token_file': cannot read"),
        ({"path": "d.nope"}, TableNotFoundError, "no table d.nope at timestamp 200"),
        ({"nonsense": "1"}, OptionError, "'nonsense': there is no such option"),
        ({"wait_for_ts": "long"}, OptionError, "'wait_for_ts': 'long' is not a number"),
    ],
)
def test_who_is_not_let_in_is_told_why(place, changed, error, text):
    options = {name: value for name, value in (place | changed).items() if value is not None}
    with pytest.raises(error) as caught:
        source(options, options.pop("path", "d.t")).schema()
    assert text in str(caught.value)


def test_secrets_are_not_shown(place, tmp_path):
    made = source(place)
    key = Path(place["tls_key"]).read_text().splitlines()[1]
    target = made._looked_up
    assert ROLES_TOKEN not in repr(target)
    assert key not in repr(target)
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(f"{ROLES_TOKEN}\n")
    with_file = {**place, "token_file": str(token)}
    del with_file["token"]
    assert read(source(with_file)) == [{"id": 2, "name": "two"}]


def test_a_unix_socket(builder, tmp_path):
    with serving(builder.path, f"unix:{tmp_path}/s"):
        assert read(source({"store": f"unix:{tmp_path}/s"})) == [{"id": 2, "name": "two"}]
    assert Place.of({"store": str(builder.path)}).is_folder
