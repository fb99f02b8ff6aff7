"""Loop that polls a source at an interval.

Between polls and while waiting, the writer handles commands, so that a command or a new interval
takes effect at once and not at the end of a long wait.
"""

from collections.abc import Callable
from typing import Final

from pyspark_theflash.base.clock import Clock

STEP_MS: Final = 50


def follow(
    poll: Callable[[], None],
    between: Callable[[], None],
    *,
    interval_ms: Callable[[], int],
    is_stopped: Callable[[], bool],
    clock: Clock,
) -> None:
    """Poll until `is_stopped`; a running poll is finished first.

    Args:
        between: Called after each poll and every `STEP_MS` while waiting.
        interval_ms: Returns the time between the starts of two polls; called at every step.
    """
    while not is_stopped():
        started_ms = clock.boottime_ms()
        poll()
        between()
        while not is_stopped():
            left_ms = started_ms + interval_ms() - clock.boottime_ms()
            if left_ms <= 0:
                break
            clock.sleep_ms(min(STEP_MS, left_ms))
            between()
