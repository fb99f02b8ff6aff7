import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import EngineError, StoreInUseError
from pyspark_theflash.storage.store.writer_lock import LOCK_FILE, WriterLock

HOLD = """
import sys, time
from pathlib import Path
from pyspark_theflash.storage.store.writer_lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_and_none_after_it_died(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreInUseError) as refused:
            WriterLock(tmp_path)
        assert refused.value.holder.startswith(f"process {holder.pid} on ")
        holder.send_signal(signal.SIGKILL)
    WriterLock(tmp_path).release()


def test_one_at_a_time_within_a_process(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreInUseError, match=f"process {os.getpid()} on "):
            WriterLock(tmp_path)
    lock.release()
    WriterLock(tmp_path).release()
    assert (tmp_path / LOCK_FILE).read_text() == ""


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        WriterLock(tmp_path / "no")
