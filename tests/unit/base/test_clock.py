import pytest

from pyspark_theflash.base.clock import Deadline
from tests.support.manual_clock import ManualClock


def test_deadlines() -> None:
    slept: list[int] = []
    deadline = Deadline(ManualClock(slept.append), 100)
    assert deadline.left_ms() == 100
    assert deadline.sleep_ms(60)
    assert deadline.left_ms() == 40
    assert not deadline.sleep_ms(60)
    assert (deadline.left_ms(), slept) == (0, [60, 40])
    assert not deadline.sleep_ms(1)


def test_a_step_is_retried_until_the_deadline() -> None:
    slept: list[int] = []
    clock = ManualClock(slept.append)
    outcomes = [KeyError(1), OSError(2), KeyError(3), 4]

    def step() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def retried(timeout_ms: int) -> int:
        return Deadline(clock, timeout_ms).retried(step, KeyError, pause_ms=30)

    with pytest.raises(OSError, match="2"):
        retried(40)
    with pytest.raises(KeyError, match="3"):
        retried(0)
    assert retried(0) == 4
    outcomes += [KeyError(n) for n in range(9)]
    with pytest.raises(KeyError, match="2"):
        retried(40)
    assert slept == [30, 30, 10]
