import shutil
import stat
import threading

import pytest

from pyspark_theflash.base.errors import (
    BinlogCorruptionError,
    ClusterMismatchError,
    CorruptionError,
    EngineError,
    OptionError,
    SpoolFullError,
    StoreFullError,
    StoreInUseError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem
from tests.support import binlog_writer

FS = LocalFileSystem()
MESSAGES = [binlog_writer.commit(n, n + 1) for n in range(1, 7)]
FIRST = "binlog-0000000000000001"
SECOND = "binlog-0000000000000002"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def opened(folder, fs=FS, **limits):
    return Spool(folder, fs, **limits)


def content(spool):
    return [frame.payload for frame in spool.source().frames()]


def filled(folder, messages=MESSAGES, **limits):
    """Fill the spool's folder with messages, and close the spool."""
    spool = opened(folder, **limits)
    for message in messages:
        spool.append([message])
    spool.close()
    return folder


def test_what_is_appended_is_read(folder):
    spool = opened(folder)
    assert (content(spool), spool.position, spool.size_bytes) == ([], f"{FIRST}:0", 0)
    spool.append(MESSAGES[:2])
    spool.append(MESSAGES[2:])
    size = len(binlog_writer.frames(MESSAGES))
    assert (spool.position, spool.size_bytes) == (f"{FIRST}:{size}", size)
    assert content(spool) == MESSAGES
    assert (folder / FIRST).read_bytes() == binlog_writer.frames(MESSAGES)
    assert stat.S_IMODE((folder / FIRST).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    spool.close()


def test_it_goes_on_where_it_was(folder):
    spool = opened(filled(folder, MESSAGES[:4]))
    spool.append(MESSAGES[4:])
    assert content(spool) == MESSAGES
    spool.close()


def test_files_are_begun_by_size(folder):
    frame = len(binlog_writer.frame(MESSAGES[0]))
    filled(folder, file_bytes=2 * frame)
    spool = opened(folder, file_bytes=2 * frame)
    assert [path.stat().st_size for path in sorted(folder.glob("binlog*"))] == [2 * frame] * 3
    assert content(spool) == MESSAGES
    assert spool.size_bytes == 6 * frame
    spool.close()


def test_what_is_not_synced_is_not_read(folder):
    spool = opened(folder)
    spool.append(MESSAGES[:1])
    position = spool.position
    seen = []

    def look():
        seen.extend([content(spool), spool.position, (folder / FIRST).stat().st_size])

    with armed("spool.sync", look):
        spool.append(MESSAGES[1:2])
    size = len(binlog_writer.frames(MESSAGES[:2]))
    assert seen == [MESSAGES[:1], position, size]
    assert content(spool) == MESSAGES[:2]
    spool.close()


def test_threads_that_append_at_the_same_time(folder):
    spool = opened(folder)
    threads = [threading.Thread(target=spool.append, args=([m],)) for m in MESSAGES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(content(spool)) == sorted(MESSAGES)
    assert spool.size_bytes == len(binlog_writer.frames(MESSAGES))
    spool.close()


def test_second_process(folder):
    spool = opened(folder)
    with pytest.raises(StoreInUseError):
        opened(folder)
    spool.close()
    opened(folder).close()


def test_closed(folder):
    spool = opened(folder)
    spool.close()
    with pytest.raises(EngineError, match="is closed"):
        spool.append(MESSAGES)


# A crash, and damage.


def test_a_tail_cut_at_any_byte_is_cut_off(folder):
    filled(folder, MESSAGES[:2])
    file = folder / FIRST
    whole, start = file.read_bytes(), len(binlog_writer.frames(MESSAGES[:1]))
    for size in range(start, len(whole)):
        file.write_bytes(whole[:size])
        spool = opened(folder)
        assert file.stat().st_size == start
        assert spool.position == f"{FIRST}:{start}"
        spool.append(MESSAGES[2:3])
        assert content(spool) == [MESSAGES[0], MESSAGES[2]]
        spool.close()


def test_a_changed_byte_is_corruption_and_is_not_cut_off(folder):
    filled(folder, MESSAGES[:2])
    file = folder / FIRST
    whole = file.read_bytes()
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        file.write_bytes(damaged)
        with pytest.raises(BinlogCorruptionError):
            opened(folder)
        assert file.read_bytes() == damaged


def test_crash_after_a_file_was_begun(folder):
    filled(folder, MESSAGES[:2])
    (folder / SECOND).touch()
    spool = opened(folder)
    spool.append(MESSAGES[2:])
    assert content(spool) == MESSAGES
    assert spool.position.startswith(SECOND)
    spool.close()


def test_missing_file(folder):
    filled(folder, file_bytes=1)
    (folder / SECOND).unlink()
    with pytest.raises(CorruptionError, match=f"{SECOND} is missing"):
        opened(folder)


@pytest.mark.parametrize("name", ["binlog-1", "binlog-0000000000000002.gz", "other"])
def test_strange_file(folder, name):
    filled(folder)
    (folder / name).touch()
    with pytest.raises(CorruptionError, match="not a spool file"):
        opened(folder)


def outcome(spool, message):
    """Return the class of the error of a message; None if it is acknowledged."""
    try:
        spool.append([message])
    except (EngineError, StoreFullError) as error:
        return type(error)


def outcomes(spool, messages):
    return [outcome(spool, message) for message in messages]


@pytest.mark.parametrize("count", [6, pytest.param(90, marks=pytest.mark.slow)])
@pytest.mark.parametrize("lasting", [True, False], ids=["lasting", "once"])
@pytest.mark.parametrize("failure", Failure)
def test_a_disk_that_fails_at_any_call(tmp_path, failure, lasting, count):
    messages = [binlog_writer.commit(n, n + 1) for n in range(1, count + 1)]
    more = binlog_writer.commit(900, 901)
    counting = FaultyFileSystem(failure)
    spool = opened(tmp_path / "sound", counting, file_bytes=60)
    opening = len(counting.calls)
    assert set(outcomes(spool, messages)) == {None}
    spool.close()
    for fail_at in range(opening, len(counting.calls)):
        folder, fs = tmp_path / str(fail_at), FaultyFileSystem(failure, fail_at, lasting=lasting)
        spool = opened(folder, fs, file_bytes=60)
        results = outcomes(spool, messages)
        fs.heal()
        expected = StoreFullError if failure is Failure.FULL else EngineError
        assert set(results) <= {None, expected}
        acknowledged = [m for m, result in zip(messages, results, strict=True) if result is None]
        assert content(spool) == acknowledged
        if failure is Failure.FULL:
            spool.append([more])
            acknowledged.append(more)
        elif expected in results:
            with pytest.raises(EngineError, match="no more writes until it is reopened"):
                spool.append([more])
        spool.close()
        again = opened(folder)
        # Unacknowledged messages may or may not be stored; there are no others and no duplicates.
        stored = content(again)
        assert stored[: len(acknowledged)] == acknowledged
        assert set(stored) <= {*messages, more}
        assert len(stored) == len(set(stored))
        again.close()
        shutil.rmtree(folder)


def test_a_disk_that_fails_while_opening(tmp_path):
    counting = FaultyFileSystem(Failure.IO_ERROR)
    opened(filled(tmp_path / "sound"), counting).close()
    for fail_at in range(len(counting.calls)):
        folder = filled(tmp_path / str(fail_at))
        with pytest.raises(EngineError):
            opened(folder, FaultyFileSystem(Failure.IO_ERROR, fail_at))
        spool = opened(folder)
        assert content(spool) == MESSAGES
        spool.close()


def test_an_interrupted_write_is_acknowledged_to_nobody(folder):
    spool = opened(folder)

    def interrupt():
        raise KeyboardInterrupt

    with armed("spool.sync", interrupt), pytest.raises(KeyboardInterrupt):
        spool.append(MESSAGES[:1])
    with pytest.raises(EngineError, match="KeyboardInterrupt"):
        spool.append(MESSAGES[1:])
    assert content(spool) == []
    spool.close()


# Limits.


def test_limit(folder):
    frame = len(binlog_writer.frame(MESSAGES[0]))
    spool = opened(folder, max_bytes=3 * frame)
    with pytest.raises(SpoolFullError):
        spool.append(MESSAGES[:1], spare_bytes=2 * frame + 1)
    spool.append(MESSAGES[:1], spare_bytes=2 * frame)
    with pytest.raises(SpoolFullError) as caught:
        spool.append(MESSAGES[1:4])
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (frame, 3 * frame)
    spool.append(MESSAGES[1:3])
    with pytest.raises(SpoolFullError):
        spool.append(MESSAGES[3:4])
    assert content(spool) == MESSAGES[:3]
    spool.close()


def test_full_disk_is_not_counted(folder):
    fs = FaultyFileSystem(Failure.FULL)
    spool = opened(folder, fs)
    spool.append(MESSAGES[:1])
    size = spool.size_bytes
    fs.fail_from_now()
    with pytest.raises(StoreFullError):
        spool.append(MESSAGES[1:])
    assert spool.size_bytes == size == (folder / FIRST).stat().st_size
    spool.close()


# Dropping applied messages.


def test_files_behind_a_position_are_dropped(folder):
    spool = opened(folder, file_bytes=1)
    for message in MESSAGES:
        spool.append([message])
    source = spool.source()
    for number, _ in enumerate(source.entities(), 1):
        spool.drop_before(source.position)
        assert sorted(p.name for p in folder.glob("binlog*")) == [
            f"binlog-{n:016d}" for n in range(number, 7)
        ]
        assert content(spool) == MESSAGES[number - 1 :]
        rest = spool.source().frames(source.position)
        assert [frame.payload for frame in rest] == MESSAGES[number:]
    assert spool.size_bytes == len(binlog_writer.frame(MESSAGES[-1]))
    with pytest.raises(OptionError, match="is not in"):
        spool.drop_before(f"{FIRST}:0")
    spool.close()
    spool = opened(folder)
    assert content(spool) == MESSAGES[-1:]
    spool.close()


def test_room_after_dropping(folder):
    frame = len(binlog_writer.frame(MESSAGES[0]))
    spool = opened(folder, file_bytes=frame, max_bytes=2 * frame)
    spool.append(MESSAGES[:1])
    spool.append(MESSAGES[1:2])
    with pytest.raises(SpoolFullError):
        spool.append(MESSAGES[2:3])
    spool.drop_before(spool.position)
    spool.append(MESSAGES[2:3])
    assert content(spool) == MESSAGES[1:3]
    spool.close()


# The rest.


def test_one_cluster(folder):
    spool = opened(folder)
    spool.check_cluster(2**64 - 1)
    spool.check_cluster(2**64 - 1)
    spool.close()
    spool = opened(folder)
    with pytest.raises(ClusterMismatchError) as caught:
        spool.check_cluster(7)
    assert (caught.value.actual, caught.value.expected) == (7, 2**64 - 1)
    assert content(spool) == []
    (folder / ".cluster").write_bytes(b"")
    with pytest.raises(CorruptionError, match="not a cluster id"):
        spool.check_cluster(7)
    spool.close()


def test_waiting(folder):
    spool = opened(folder)
    assert spool.wait_beyond(None, 0)
    position = spool.position
    assert not spool.wait_beyond(position, 1)
    thread = threading.Thread(target=spool.append, args=(MESSAGES,))
    thread.start()
    assert spool.wait_beyond(position, 60_000)
    thread.join()
    spool.close()


def test_positions_by_number(folder):
    spool = opened(folder, file_bytes=1)
    for message in MESSAGES:
        spool.append([message])
    assert spool.position_of(0, 0) == f"{FIRST}:0"
    assert spool.position_of(2, 16) == f"{SECOND}:16"
    spool.drop_before(spool.position)
    assert spool.position_of(0, 0) == "binlog-0000000000000006:0"
    spool.close()
