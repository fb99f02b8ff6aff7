"""What a service remembers of the scans that it has planned."""

import threading
from collections import OrderedDict
from typing import Final

from pyspark_theflash.read.plan.scan_plan import ScanTask
from pyspark_theflash.service.api.seal import SealedScan

_PLANS_MAX: Final = 256


class RecentPlans:
    """A task of each plan of late, so that its columns need not be worked out for every split.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._tasks: OrderedDict[tuple[str, SealedScan], ScanTask] = OrderedDict()

    def get(self, key: tuple[str, SealedScan]) -> ScanTask | None:
        """`key`: a lease's id, and what was asked for."""
        with self._mutex:
            if key in self._tasks:
                self._tasks.move_to_end(key)
            return self._tasks.get(key)

    def put(self, key: tuple[str, SealedScan], task: ScanTask) -> None:
        with self._mutex:
            self._tasks[key] = task
            while len(self._tasks) > _PLANS_MAX:
                self._tasks.popitem(last=False)
