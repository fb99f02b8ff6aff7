import gzip
import logging
import os

import pytest

from pyspark_theflash.base.errors import BinlogCorruptionError, OptionError
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.position import FilePosition
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


# Positions.


def test_position_is_behind_the_last_entity(tmp_path):
    binlog_writer.write_file(tmp_path / "a", MESSAGES[:2])
    binlog_writer.write_file(tmp_path / "b.gz", MESSAGES[2:])
    source = FileSource(tmp_path)
    assert source.position is None
    positions = [source.position for _ in source.entities()]
    ends = [len(binlog_writer.frames(m)) for m in (MESSAGES[:1], MESSAGES[:2])]
    ends += [len(binlog_writer.frames(m)) for m in (MESSAGES[2:3], MESSAGES[2:])]
    assert positions == [f"a:{ends[0]}", f"a:{ends[1]}", f"b.gz:{ends[2]}", f"b.gz:{ends[3]}"]
    for number, position in enumerate(positions, 1):
        source = FileSource(tmp_path)
        rest = [(e.kind.name, e.start_ts) for e in source.entities(position)]
        assert rest == EXPECTED[number:]
        assert source.position == positions[-1]


def test_position_inside_of_a_message_that_is_two_entities(tmp_path):
    merged = binlog_writer.merged(7, 8, b"value")
    path = binlog_writer.write_file(tmp_path / "binlog", [*MESSAGES[:1], merged])
    source = FileSource(path)
    positions = [source.position for _ in source.entities()]
    assert positions[0] == positions[1] != positions[2]
    assert [e.kind.name for e in source.entities(positions[1])] == ["PREWRITE", "COMMIT"]


def test_polling_a_folder_that_grows(tmp_path):
    entities, position = [], None
    for size in range(len(CONTENT) + 1):
        (tmp_path / "binlog-1").write_bytes(CONTENT[:size])
        source = FileSource(tmp_path)
        entities += [(e.kind.name, e.start_ts) for e in source.entities(position)]
        position = source.position
    assert entities == EXPECTED
    binlog_writer.write_file(tmp_path / "binlog-2", MESSAGES[:2])
    source = FileSource(tmp_path)
    assert [e.start_ts for e in source.entities(position)] == [1, 1]
    assert source.position.startswith("binlog-2:")


def test_position_whose_file_is_gone(tmp_path):
    binlog_writer.write_file(tmp_path / "b", MESSAGES)
    for name in ("a", "c"):
        with pytest.raises(OptionError, match=f"file {name} does not exist"):
            list(FileSource(tmp_path).entities(f"{name}:0"))


@pytest.mark.parametrize("name", ["binlog", "binlog.gz"])
def test_position_beyond_the_end(tmp_path, name):
    path = binlog_writer.write_file(tmp_path / name, MESSAGES)
    with pytest.raises(BinlogCorruptionError, match=f"now ends at byte {len(CONTENT)}"):
        list(FileSource(path).entities(f"{name}:{len(CONTENT) + 1}"))


@pytest.mark.parametrize("name", ["binlog", "binlog.gz"])
def test_position_that_is_not_at_the_border_of_a_frame(tmp_path, name):
    path = binlog_writer.write_file(tmp_path / name, MESSAGES)
    borders = {0, len(CONTENT)}
    borders |= {len(binlog_writer.frames(MESSAGES[:n])) for n in range(1, 4)}
    for offset in set(range(len(CONTENT))) - borders:
        with pytest.raises(BinlogCorruptionError, match=f"at byte {offset}"):
            list(FileSource(path).entities(f"{name}:{offset}"))


@pytest.mark.parametrize("text", ["", "binlog", ":5", "binlog:", "binlog:-1", "binlog:5x", "a:٣"])
def test_text_that_is_no_position(tmp_path, text):
    path = binlog_writer.write_file(tmp_path / "binlog", MESSAGES)
    with pytest.raises(OptionError, match="is not of the form FILE:OFFSET"):
        list(FileSource(path).entities(text))


def test_a_source_that_ends_early(tmp_path):
    binlog_writer.write_file(tmp_path / "a", MESSAGES[:1])
    binlog_writer.write_file(tmp_path / "b", MESSAGES[1:])
    binlog_writer.write_file(tmp_path / "c", MESSAGES)
    end = FilePosition("b", len(binlog_writer.frames(MESSAGES[1:3])))
    assert starts(FileSource(tmp_path, end)) == EXPECTED[:3]


# Torn tails.


@pytest.mark.parametrize("name", ["binlog", "binlog.gz"])
def test_torn_tail_is_reported(tmp_path, caplog, name):
    path = tmp_path / name
    cut = CONTENT[:-1]
    path.write_bytes(gzip.compress(cut) if name.endswith(".gz") else cut)
    os.utime(path, (0, 0))  # a file that is not growing
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
            entities = starts(FileSource(path))
        except BinlogCorruptionError:
            continue
        assert name.endswith(".gz")
        assert entities == EXPECTED[:2]
