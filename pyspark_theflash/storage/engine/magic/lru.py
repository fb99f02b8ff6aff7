"""A mapping of bounded size that forgets first what was asked for least lately.

Who asks for more than there is room for, always in the same order, would find none of it. So where
that is to be expected, `admits` is asked first: a full one has room for but one of several.
"""

import threading
from collections import OrderedDict
from typing import Final, Generic, TypeVar

ONE_OF: Final = 16
"""So many are refused or admitted for one that takes the place of others."""
K = TypeVar("K")
V = TypeVar("V")


class LeastRecent(Generic[K, V]):
    """See the module; used by many threads."""

    def __init__(self, size_bytes: int) -> None:
        self._refused = 0
        self._mutex = threading.Lock()
        self._kept: OrderedDict[K, tuple[int, V]] = OrderedDict()
        self._left_bytes = size_bytes

    def get(self, key: K) -> V | None:
        """What was put for this key, if it is still there."""
        with self._mutex:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def admits(self, size_bytes: int) -> bool:
        """Whether there is room for a value of so many bytes, or others shall go for it."""
        with self._mutex:
            if size_bytes > self._left_bytes:
                self._refused = (self._refused + 1) % ONE_OF
                return not self._refused
            return True

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value that takes so many bytes, unless there is one."""
        with self._mutex:
            if key in self._kept:
                return
            self._kept[key] = size_bytes, value
            self._left_bytes -= size_bytes
            while self._left_bytes < 0:
                _, (freed_bytes, _) = self._kept.popitem(last=False)
                self._left_bytes += freed_bytes
