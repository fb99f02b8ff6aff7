import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.storage.store.latch.holder import Holder

CLOCK = SystemClock()
HERE = Holder.here(CLOCK)
PRINT_HOLDER = """
import dataclasses, json, sys
from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.storage.store.latch.holder import Holder
print(json.dumps(dataclasses.astuple(Holder.here(SystemClock()))), flush=True)
sys.stdin.read()
"""


def test_this_process_is_here() -> None:
    assert not HERE.is_gone(CLOCK)
    assert str(HERE).startswith(f"process {os.getpid()} on ")


def test_a_killed_process_is_gone_even_before_it_is_reaped() -> None:
    command = [sys.executable, "-c", PRINT_HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        holder = Holder.from_fields(json.loads(process.stdout.readline()))
        assert holder.pid == process.pid
        assert not holder.is_gone(CLOCK)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert holder.is_gone(CLOCK)
        process.wait()
    assert holder.is_gone(CLOCK)


def test_a_process_id_that_was_given_out_again() -> None:
    assert dataclasses.replace(HERE, started="1").is_gone(CLOCK)


@pytest.mark.parametrize("field", ["boot_id", "namespace"])
def test_of_another_machine_run_or_container_nothing_is_proved(field: str) -> None:
    elsewhere = dataclasses.replace(HERE, pid=2**22 + 1, **{field: "another"})
    assert not elsewhere.is_gone(CLOCK)
    assert dataclasses.replace(elsewhere, **{field: getattr(HERE, field)}).is_gone(CLOCK)


@pytest.mark.parametrize("field", ["started", "namespace"])
def test_a_system_that_does_not_tell_proves_nothing(field: str) -> None:
    assert not dataclasses.replace(HERE, pid=2**22 + 1, **{field: ""}).is_gone(CLOCK)


@pytest.mark.parametrize("fields", [[], 5, None, "text", [1], [1] * 6, ["1"] * 6, [1, *"abcdef"]])
def test_what_is_no_holder(fields: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Holder.from_fields(fields)  # type: ignore[arg-type]
