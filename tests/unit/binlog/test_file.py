import gzip
import logging

import pytest

from pyspark_theflash.binlog.file import FileSource
from pyspark_theflash.errors import BinlogCorruptionError, OptionError
from tests.support import binlog_writer

MESSAGES = binlog_writer.transaction(1, 3, b"value") + binlog_writer.transaction(4, 6)
CONTENT = binlog_writer.frames(MESSAGES)
LAST = len(CONTENT) - len(binlog_writer.frame(MESSAGES[-1]))


def starts(source):
    return [(entity.kind.name, entity.start_ts) for entity in source.entities()]


EXPECTED = [("PREWRITE", 1), ("COMMIT", 1), ("PREWRITE", 4), ("COMMIT", 4)]


@pytest.mark.parametrize("name", ["binlog", "binlog.gz"])
def test_one_file(tmp_path, name):
    path = binlog_writer.write_file(tmp_path / name, MESSAGES)
    source = FileSource(path)
    assert starts(source) == EXPECTED
    assert starts(source) == EXPECTED
    assert source.torn_tails == []
    last = list(source.entities())[-1]
    assert (last.file, last.offset) == (str(path), LAST)


def test_folder_by_name(tmp_path):
    binlog_writer.write_file(tmp_path / "binlog-0002", MESSAGES[2:3])
    binlog_writer.write_file(tmp_path / "binlog-0001.gz", MESSAGES[:2])
    binlog_writer.write_file(tmp_path / "binlog-0003", MESSAGES[3:])
    (tmp_path / ".hidden").write_text("no binlog")
    (tmp_path / "a folder").mkdir()
    assert starts(FileSource(tmp_path)) == EXPECTED


def test_empty_folder(tmp_path):
    assert starts(FileSource(tmp_path)) == []


def test_nothing_there(tmp_path):
    with pytest.raises(OptionError, match=r"option 'source': cannot read .*none: No such file"):
        FileSource(tmp_path / "none")


def test_file_that_goes_away(tmp_path):
    path = binlog_writer.write_file(tmp_path / "binlog", MESSAGES)
    source = FileSource(path)
    path.unlink()
    with pytest.raises(OptionError, match="No such file"):
        list(source.entities())


def test_what_is_appended_later_belongs_to_the_next_source(tmp_path):
    path = binlog_writer.write_file(tmp_path / "binlog", MESSAGES[:2])
    source = FileSource(path)
    with path.open("ab") as file:
        file.write(binlog_writer.frames(MESSAGES[2:]))
    binlog_writer.write_file(tmp_path / "binlog-2", MESSAGES)
    assert starts(source) == EXPECTED[:2]
    assert starts(FileSource(path)) == EXPECTED


@pytest.mark.parametrize("name", ["binlog", "binlog.gz"])
def test_torn_tail_is_reported(tmp_path, caplog, name):
    path = tmp_path / name
    cut = CONTENT[:-1]
    path.write_bytes(gzip.compress(cut) if name.endswith(".gz") else cut)
    source = FileSource(path)
    with caplog.at_level(logging.WARNING):
        assert starts(source) == EXPECTED[:-1]
    assert source.torn_tails == [(str(path), LAST)]
    assert f"offset={LAST}" in caplog.text


def test_gzip_that_ends_early_behind_a_whole_frame(tmp_path):
    path = tmp_path / "binlog.gz"
    path.write_bytes(gzip.compress(CONTENT)[:-8])
    source = FileSource(path)
    assert starts(source) == EXPECTED
    assert source.torn_tails == [(str(path), len(CONTENT))]


def test_torn_tail_of_a_file_that_is_not_the_last(tmp_path):
    first = tmp_path / "binlog-1"
    first.write_bytes(CONTENT[:-1])
    binlog_writer.write_file(tmp_path / "binlog-2", MESSAGES)
    with pytest.raises(BinlogCorruptionError) as caught:
        starts(FileSource(tmp_path))
    assert (caught.value.file, caught.value.offset) == (str(first), LAST)


def test_frame_that_holds_no_message(tmp_path):
    path = binlog_writer.write_file(tmp_path / "binlog", [*MESSAGES, b"\xff\xff"])
    with pytest.raises(
        BinlogCorruptionError, match=f"not a binlog message.* at byte {len(CONTENT)}"
    ):
        starts(FileSource(path))


@pytest.mark.parametrize("name", ["binlog", "binlog.gz"])
def test_every_flipped_bit_is_found_or_harmless(tmp_path, name):
    path = binlog_writer.write_file(tmp_path / name, MESSAGES[:2])
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = starts(FileSource(path))
        except BinlogCorruptionError:
            continue
        assert name.endswith(".gz")
        assert found == EXPECTED[:2]
