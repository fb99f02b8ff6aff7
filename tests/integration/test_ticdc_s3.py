"""TiCDC's storage sink, and a dump, in a bucket of an S3 server."""

import gzip
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.backends import get_backend
from moto.server import ThreadedMotoServer
from pyarrow import fs

from pyspark_theflash.base.errors import OptionError, ServiceUnavailableError
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication.ticdc.storage import checkpoint_ts, open_storage
from tests.support.sql_base import check_store
from tests.support.ticdc_sink import SinkFolder, sink_rows
from tests.support.workloads import check_answers, workload

DUMPS = Path(__file__).parents[1] / "fixtures/dumpling"


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def endpoint(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return "http://{}:{}".format(*server.get_host_and_port())


def client(endpoint: str) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        region="us-east-1", endpoint_override=endpoint, allow_bucket_creation=True
    )


def properties(endpoint: str) -> str:
    return f"region=us-east-1&endpoint={endpoint}"


def upload(root: Path, files: fs.S3FileSystem, folder: str) -> None:
    """Copy the files of a folder, the metadata last."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name == "metadata"):
        name = f"{folder}/{path.relative_to(root)}"
        with files.open_output_stream(name, compression=None) as stream:
            stream.write(path.read_bytes())


def test_the_command(endpoint: str, tmp_path: Path) -> None:
    chosen, rows = workload("bank"), sink_rows(workload("bank"))
    sink, files = SinkFolder(tmp_path / "sink", dispatchers=3), client(endpoint)
    files.create_dir("bank")
    sink.root.mkdir()
    store = str(tmp_path / "store")
    assert main(["init", store]) == 0
    command = ["writer", store, "--source", f"cdc:s3://bank/a/b?{properties(endpoint)}"]
    command += ["--schema", f"file:{chosen.schema}", "--once"]
    half = len(rows) // 2
    sink.write(rows[:half])
    sink.checkpoint(rows[half].commit_ts)
    upload(sink.root, files, "bank/a/b")
    assert main([*command, "--base", str(chosen.base)]) == 0
    sink.write(rows[half:])
    sink.checkpoint(chosen.end_ts + 1)
    upload(sink.root, files, "bank/a/b")
    assert main([*command, "--until-ts", str(chosen.end_ts)]) == 0
    answers = [a for a in chosen.answers() if a.table != "bank.acc_nopk"]
    assert check_answers(Path(store), answers) == 124


def test_a_dump(endpoint: str, tmp_path: Path) -> None:
    """The base is a folder of Dumpling in a bucket, compressed."""
    files = client(endpoint)
    files.create_dir("dumps")
    with tarfile.open(DUMPS / "dumps.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    upload(tmp_path / "csv-zstd", files, "dumps/x")
    (tmp_path / "sink").mkdir()
    (tmp_path / "sink/metadata").write_text('{"checkpoint-ts":1}')
    store = str(tmp_path / "store")
    assert main(["init", store]) == 0
    command = ["writer", store, "--source", f"cdc:file://{tmp_path}/sink?time-zone=UTC", "--once"]
    command += ["--schema", f"file:{DUMPS}/schema.json.gz", "--include", "shop.types"]
    url = f"dump:s3://dumps/x?{properties(endpoint)}&time-zone=UTC&no-header=true"
    assert main([*command, "--base", f"{url}&csv-null-value=nil"]) == 0
    truth = json.loads(gzip.decompress((DUMPS / "truth.json.gz").read_bytes()))["tables"]
    assert check_store(Path(store), {"types": [tuple(row) for row in truth["types"]]}) == 6


def test_more_files_than_a_listing_has(endpoint: str) -> None:
    """S3 lists at most 1,000 keys at a time."""
    client(endpoint).create_dir("many")
    expected = {f"t/{number}/f": number % 7 for number in range(1200)}
    bucket = get_backend("s3")["123456789012"]["aws"]
    for path, size in expected.items():
        bucket.put_object("many", f"x/{path}", b"a" * size)
    storage, _ = open_storage(f"s3://many/x?{properties(endpoint)}")
    assert storage.files() == expected


def test_a_bucket_that_does_not_exist(endpoint: str) -> None:
    with pytest.raises(OptionError, match="there is no bucket 'absent'"):
        open_storage(f"s3://absent/x?{properties(endpoint)}")


def test_a_server_that_has_ended(endpoint: str) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client(endpoint).create_dir("sink")
    storage, _ = open_storage(f"s3://sink/x?{properties(endpoint)}")
    assert checkpoint_ts(storage) is None
    server.stop()
    with pytest.raises(ServiceUnavailableError, match="s3://sink/x"):
        checkpoint_ts(storage)
    with pytest.raises(ServiceUnavailableError, match="s3://sink/x"):
        open_storage(f"s3://sink/x?{properties(endpoint)}")
