"""Watch of the keys with a prefix in the etcd that PD embeds.

A thread reads the changes from a revision on, so that a key that was set and removed between two
looks is seen. etcd compacts old revisions (PD: those older than an hour): then the keys are listed,
and the changes in between are unknown.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    CodecError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pyspark_theflash.cluster import wire
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.net.channel import describe, grpc

KEYS_MAX: Final = 10_000
_RETRY_S: Final = 1.0
_ERRORS: Final = (
    ServiceUnavailableError,
    ServiceRefusedError,
    ClusterMismatchError,
    CodecError,
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchedKeys:
    """The keys at a revision.

    `changed` is the revision of their last change, or one above it if changes are unknown.
    """

    revision: int
    changed: int = 0
    keys: frozenset[str] = frozenset()

    def after(self, changes: wire.KeyChanges) -> "WatchedKeys":
        """Return the keys after a response of a watch from this revision on."""
        if changes.revision is None or changes.revision <= self.revision:
            return self
        if not changes.changes:
            return replace(self, revision=changes.revision)
        keys = set(self.keys)
        for key, is_set in changes.changes:
            (keys.add if is_set else keys.discard)(key)
        return WatchedKeys(changes.revision, changes.revision, frozenset(keys))


class KeyWatch:
    """Watch from `revision` on, in a thread; with None, from the current one on.

    `keys` is None until etcd has responded. Close it to end the thread.
    """

    def __init__(self, pd: PDClient, prefix: str, revision: int | None) -> None:
        self._pd, self._prefix, self._from = pd, prefix, revision
        self.keys: WatchedKeys | None = None
        self._ended, self._mutex = threading.Event(), threading.Lock()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._mutex:
            self._ended.set()
            if self._call is not None:
                self._call.cancel()
        self._thread.join()

    def _run(self) -> None:
        is_logged = False
        while not self._ended.is_set():
            try:
                for changes in self._changes(self._start()):
                    is_logged = False
                    self._follow(changes)
                reason = "the stream ended"
            except _ERRORS as error:
                reason = str(error)
            except grpc.RpcError as error:
                reason = describe(error)
            if not is_logged and not self._ended.is_set():
                _log.warning("keys %s of PD are not watched, retrying: %s", self._prefix, reason)
                is_logged = True
            self._ended.wait(_RETRY_S)

    def _start(self) -> int:
        """Return the first revision to watch; list the keys if there is none to continue from."""
        if self.keys is None:
            listed = self._listed()
            is_known = self._from is not None and self._from <= listed.revision
            self.keys = WatchedKeys(self._from or 0, 0, listed.keys) if is_known else listed
        return self.keys.revision + 1

    def _listed(self) -> WatchedKeys:
        """Return the keys, whose changes up to now are unknown."""
        revision, keys = self._pd.keys_at(self._prefix, KEYS_MAX)
        return WatchedKeys(revision, revision, frozenset(keys))

    def _follow(self, changes: wire.KeyChanges) -> None:
        if changes.compacted is not None:
            # etcd ends the watch; the next one continues from here.
            self.keys = self._listed()
        elif self.keys is not None:
            self.keys = self.keys.after(changes)

    def _changes(self, revision: int) -> Iterator[wire.KeyChanges]:
        with self._mutex:
            if self._ended.is_set():
                return
            ended = threading.Event()
            call = self._call = self._pd.open_watch(self._prefix, revision, ended)
        try:
            for message in call:
                yield wire.decode_key_changes(message)
        finally:
            call.cancel()
            ended.set()
