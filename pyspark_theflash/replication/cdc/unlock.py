"""Locks that hold the frontier of a change feed.

A region's resolved_ts stays below the start_ts of its oldest lock. A lock whose client died stays
until a client resolves it. The client's `LockPolicy` applies:

    RESOLVE     the locks are resolved as TiDB would; see `cluster.resolve`
    WAIT, FAIL  the transactions' states are checked, which changes nothing in TiKV, and logged;
                TiDB resolves the locks when it reads or writes the rows, or with its GC
"""

import logging
from collections.abc import Callable
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    KeyIsLockedError,
    LockResolveError,
    RegionGapError,
    ServiceUnavailableError,
)
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient

_log = logging.getLogger(__name__)

_RESOLVE_MS: Final = 5000
_CHECK_MS: Final = 1000
"""Neither takes longer; meanwhile nothing is received."""


def unlocker(client: TiKVClient, clock: Clock) -> Callable[[RawKeyRange], None]:
    """Return a function that checks or resolves the locks of keys, by the policy of a client.

    The function logs failures that the next call may not have, and raises others as the client.
    """
    may_resolve = client.resolver.policy is LockPolicy.RESOLVE

    def unlock(keys: RawKeyRange) -> None:
        deadline = Deadline(clock, _RESOLVE_MS if may_resolve else _CHECK_MS)
        try:
            now = client.now(deadline)
            locks = [lock for lock in client.scan_locks(keys, now, deadline) if lock.has_data]
            if not locks:
                return
            # At this timestamp, all of them block.
            ts = max(max(lock.start_ts, lock.min_commit_ts) for lock in locks)
            client.resolver.resolve(locks, ts, deadline)
        except (KeyIsLockedError, LockResolveError) as error:
            _log.warning("a lock holds the change feed: %s", error)
        except (ServiceUnavailableError, RegionGapError) as error:
            _log.warning("the locks that hold the change feed cannot be checked: %s", error)

    return unlock
