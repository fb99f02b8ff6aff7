import pytest
from pyarrow import fs

from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    OptionError,
    ServiceUnavailableError,
)
from pyspark_theflash.replication.storage import Storage
from pyspark_theflash.replication.ticdc.rows import BinaryEncoding, SinkFormat
from pyspark_theflash.replication.ticdc.storage import checkpoint_ts, open_storage


@pytest.fixture(params=["local", "subtree"])
def storage(request, tmp_path):
    """The same folder by two of Arrow's file systems: one has paths like S3, without a root."""
    root = tmp_path / "bucket" / "prefix"
    root.mkdir(parents=True)
    local = fs.LocalFileSystem()
    if request.param == "local":
        return Storage(local, str(root), "file"), root
    return Storage(fs.SubTreeFileSystem(str(tmp_path), local), "bucket/prefix/", "s3"), root


def test_files_and_checkpoint(storage):
    sink, root = storage
    assert checkpoint_ts(sink) is None
    assert sink.files() == {}
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x").write_bytes(b"abc")
    (root / "metadata").write_text('{"checkpoint-ts":433305438660591626}')
    assert checkpoint_ts(sink) == 433305438660591626
    assert sink.files() == {"a/b/x": 3, "metadata": 36}
    assert sink.read("a/b/x", 2) == b"ab"


def test_a_missing_folder_is_empty(storage):
    sink, root = storage
    root.rmdir()
    assert sink.files() == {}
    assert checkpoint_ts(sink) is None


def test_a_removed_file(storage):
    sink, _ = storage
    with pytest.raises(ServiceUnavailableError):
        sink.read("a/b/x", 2)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checkpoint-ts":"1"}', '{"checkpoint-ts":-1}'])
def test_damaged_metadata(storage, text):
    sink, root = storage
    (root / "metadata").write_text(text)
    with pytest.raises(CodecError):
        checkpoint_ts(sink)


def test_large_files(storage):
    with pytest.raises(CorruptionError, match="bytes are more than"):
        storage[0].read("x", 1 << 40)


def test_a_folder(tmp_path):
    (tmp_path / "a b").mkdir()
    url = f"file://{tmp_path}/a%20b?time-zone=UTC&binary-encoding-method=hex"
    sink, properties = open_storage(url)
    assert sink.url == f"file://{tmp_path}/a%20b"
    assert properties == SinkFormat("UTC", BinaryEncoding.HEX)
    assert sink.files() == {}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/tmp", "neither"),
        ("gcs://b/p", "neither"),
        ("file:///nowhere/at/all", "not a folder"),
        ("file://host/tmp", "not a folder"),
        ("file:///tmp?region=x", "unknown 'region'"),
        ("file:///tmp?time-zone=Mars", "unknown time-zone"),
        ("file:///tmp?binary-encoding-method=rot13", "none of base64, hex"),
        ("s3:///prefix", "no bucket"),
    ],
)
def test_invalid_urls(url, reason):
    with pytest.raises(OptionError, match=reason):
        open_storage(url)


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/p", "s3://bucket/p?access-key=k&secret-access-key=secret"]
)
def test_secrets_are_neither_accepted_nor_shown(url):
    with pytest.raises(OptionError) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value).replace("'secret-access-key'", "")


def test_s3_without_a_server():
    with pytest.raises(ServiceUnavailableError, match=r"^s3://bucket/p/q is not available"):
        open_storage("s3://bucket/p/q?region=eu-west-1&endpoint=http://127.0.0.1:1")
