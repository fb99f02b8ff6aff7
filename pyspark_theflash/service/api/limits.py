"""Limits of a server: all numbers that bound what its callers can use at a time.

An eighth of each total is kept for administrators, and no other identity can use more than its own
part. So neither callers without a token nor those with a token of any other role can keep
administrators out. An identity is a token, or without one a user, as on a unix socket; users are
administrators.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Final, TypeAlias

from pyspark_theflash.base.budget import REQUEST_BYTES
from pyspark_theflash.base.errors import OptionError, ServiceUnavailableError

Reserve: TypeAlias = Callable[[int], None]
"""Counts bytes in memory for a caller. Raises `ServiceUnavailableError`."""
SMALL_BYTES: Final = 1 << 16
"""Messages up to this size are not counted."""
_RESERVED: Final = 8
"""One in so many slots is kept for administrators."""
_OPTION: Final = "limit"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server. Unless an attribute says otherwise, each listener has its own count."""

    pending: int = 256
    """Connections whose callers are not authenticated yet; above it, the oldest is closed.

    Those that are less than 2 s old are closed only above three times as many.
    """
    connections: int = 256
    """Connections with frames whose callers are authenticated."""
    connections_per_identity: int = 128
    calls: int = 128
    """Calls at a time over gRPC, and over Flight. A connection with frames has one at a time."""
    calls_per_identity: int = 80
    scans_per_identity: int = 64
    """Scans at a time, in each process."""
    computing_per_identity: int = 2
    """Scans that compute a batch at a time, in each process; others wait. See `turns.py`.

    It is 1 while other identities compute too. Plans and changes of the manifest have a turn each.
    """
    memory: int = 128 << 20
    """Bytes of requests, and of responses that their callers have not received, in each process."""
    memory_per_identity: int = 72 << 20
    request_memory: int = REQUEST_BYTES
    """Bytes of the values that one request computes and retains, besides the rows as read."""
    snapshots_per_identity: int = 1_000
    """Snapshots and read latches that have not ended, in the store."""

    def with_changes(self, texts: Sequence[str]) -> "Limits":
        """Return limits with changes of the form NAME=NUMBER. Raises `OptionError`."""
        names = [field.name for field in fields(self)]
        changes: dict[str, int] = {}
        for text in texts:
            name, _, number = text.partition("=")
            if name not in names or not (number.isascii() and number.isdigit() and int(number)):
                raise OptionError(_OPTION, f"{text!r} is not NAME=NUMBER; {', '.join(names)}")
            changes[name] = int(number)
        return replace(self, **changes)


class Quota:
    """Slots or bytes that callers share. Thread-safe."""

    def __init__(self, address: str, what: str, total: int, per_identity: int) -> None:
        """Create a quota of `total`, `what` at the server at `address`, for error messages."""
        self._address, self._what = address, what
        self._total, self._per_identity = total, per_identity
        self._mutex = threading.Lock()
        self._used: Counter[str] = Counter()

    def acquire(self, identity: str, count: int = 1, *, is_admin: bool = False) -> None:
        """Use `count` more; `release` ends that.

        Raises:
            ServiceUnavailableError: There are not as many left for this caller.
        """
        total = self._total if is_admin else self._total - self._total // _RESERVED
        with self._mutex:
            own = self._used[identity] + count
            if not is_admin and own > self._per_identity:
                raise self._refused(f"{identity} uses its {self._per_identity} {self._what}")
            if self._used.total() + count > total:
                raise self._refused(f"all {total} {self._what} are in use")
            self._used[identity] = own

    def acquired(self, identity: str, *, is_admin: bool) -> Callable[[], None]:
        """Use one more; returns the function that ends that. Raises like `acquire`."""
        self.acquire(identity, is_admin=is_admin)
        return lambda: self.release(identity)

    def release(self, identity: str, count: int = 1) -> None:
        """Undo an `acquire`."""
        with self._mutex:
            self._used[identity] -= count
            if not self._used[identity]:
                del self._used[identity]

    @property
    def total(self) -> int:
        """All that is used now."""
        with self._mutex:
            return self._used.total()

    @contextmanager
    def used(self, identity: str, count: int = 1, *, is_admin: bool) -> Iterator[None]:
        """Use `count` during a block. Raises like `acquire`."""
        self.acquire(identity, count, is_admin=is_admin)
        try:
            yield
        finally:
            self.release(identity, count)

    def _refused(self, reason: str) -> ServiceUnavailableError:
        return ServiceUnavailableError(self._address, f"{reason}: try again later")


class Usage:
    """Current use of the bytes and scans of `Limits` by the callers of one process.

    Attributes:
        limits: The limits.
        memory: Bytes of requests and responses.
        scans: Scans that have not ended.
    """

    def __init__(self, limits: Limits, address: str) -> None:
        """Count for the server of the store at `address`."""
        self.limits = limits
        self.memory = Quota(address, "bytes", limits.memory, limits.memory_per_identity)
        # Connections, calls and memory bound all scans together.
        self.scans = Quota(address, "scans", limits.connections, limits.scans_per_identity)
