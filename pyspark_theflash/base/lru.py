"""LRU cache with optional admission control.

Repeated sequential access to more data than fits would never hit an LRU cache. Where this may
happen, callers check `admits` before `put`: a full cache admits only one of `ONE_OF` new values.
"""

import threading
from collections import OrderedDict
from typing import Final, Generic, TypeVar

ONE_OF: Final = 16
"""A full cache admits one of so many values."""
K = TypeVar("K")
V = TypeVar("V")


class LeastRecent(Generic[K, V]):
    """Thread-safe LRU cache of entries with a bounded total size, in bytes or in entries."""

    def __init__(self, size: int) -> None:
        self._rejected = 0
        self._mutex = threading.Lock()
        self._entries: OrderedDict[K, tuple[int, V]] = OrderedDict()
        self._free = size

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None if it is not cached."""
        with self._mutex:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][1]

    def admits(self, size: int) -> bool:
        """Return whether a value fits, or should evict others."""
        with self._mutex:
            if size > self._free:
                self._rejected = (self._rejected + 1) % ONE_OF
                return not self._rejected
            return True

    def put(self, key: K, value: V, size: int = 1) -> None:
        """Cache a value of `size`, unless the key has one."""
        with self._mutex:
            if key in self._entries:
                return
            self._entries[key] = size, value
            self._free -= size
            while self._free < 0:
                _, (freed, _) = self._entries.popitem(last=False)
                self._free += freed

    def remove(self, key: K) -> None:
        """Remove a key and its value, if it is cached."""
        with self._mutex:
            if (removed := self._entries.pop(key, None)) is not None:
                self._free += removed[0]
