from pyspark_theflash.clock import Deadline
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
