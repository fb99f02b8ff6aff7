"""The calls on latches: checks of requests and of the caller's role."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import OptionError, RegionNotFoundError, RoleError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TableID, TimeStamp
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.status import latch_message
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.catalog import NOW_KINDS, schema_history, table_now
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.latch.latch import (
    NAME_CHARS_MAX,
    Latch,
    LatchClaim,
    LatchKind,
    LatchRequest,
    LatchScope,
)
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from pyspark_theflash.storage.store.manifest import Manifest

TTL_MS_MIN: Final = 1_000
TTL_MS_MAX: Final = 3_600_000
PIN_MS_MAX: Final = 366 * 86_400_000
_ROLES: Final = {
    LatchKind.READ: Role.READ,
    LatchKind.WRITE: Role.WRITE,
    LatchKind.ADMIN: Role.ADMIN,
}


class LatchDesk:
    """The calls on the latches of one store. Each opens and closes the manifest."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock

    def acquire(
        self,
        request: message.AcquireRequest,
        ttl_ms: int,
        call: CallContext,
        snapshot_ts: TimeStamp | None = None,
    ) -> Latch:
        """Wait for a latch and acquire it; a read latch pins `snapshot_ts`.

        Raises:
            LatchHeldError, LatchOrderError: See `LatchQueue.acquire`.
            RoleError: The caller's role does not permit this kind of latch.
            OptionError, TableNotFoundError, RegionNotFoundError: The scope does not exist.
        """
        kind = kind_of(request, call)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            scope = self._scope(request.scope, manifest)
            checked = LatchRequest(
                kind, scope, ttl_ms, request.name, call.identity, request.mutates
            )
            return LatchQueue(manifest, self._clock).acquire(
                checked,
                wait_ms=min(request.wait_ms, call.left_ms()),
                check=call.check,
                snapshot_ts=snapshot_ts,
            )

    def renew_latch(self, request: message.LatchRequest, call: CallContext) -> message.Latch:
        """Restart a latch's time to live. Raises `LatchLostError`."""
        with self._claimed(request, call) as (queue, claim):
            return latch_message(queue.renew(claim), self._clock)

    def release_latch(self, request: message.LatchRequest, call: CallContext) -> message.Done:
        """End a latch. Raises `LatchLostError`."""
        with self._claimed(request, call) as (queue, claim):
            queue.release(claim)
        return message.Done("released")

    @contextmanager
    def _claimed(
        self, request: message.LatchRequest, call: CallContext
    ) -> Iterator[tuple[LatchQueue, LatchClaim]]:
        """Check that the caller holds the latch and that their role permits its kind."""
        claim = LatchClaim(request.id, request.token, call.identity)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            queue = LatchQueue(manifest, self._clock)
            check_role(call, queue.look(claim).wanted.kind)
            yield queue, claim

    def _scope(self, scope: message.LatchScope, manifest: Manifest) -> LatchScope:
        """Resolve a scope to ids, and check that it exists, except a table that has only an id."""
        if scope.table and scope.table_id:
            raise OptionError("scope", "a table has a name or an id, not both")
        levels = (scope.table or scope.table_id, scope.physical_id, scope.region_id)
        if any(later and not before for before, later in pairwise(levels)):
            raise OptionError("scope", "a partition needs its table, and a region its partition")
        view = manifest.read(NOW_KINDS)
        table_id = table_now(view, scope.table).id if scope.table else scope.table_id
        if not scope.physical_id:
            return LatchScope(table_id or None)
        history = schema_history(view)
        if history is not None and table_id:
            events = history.events_of(TableID(table_id))
            physical_ids = {i for event in events for i in event.physical_ids}
            if physical_ids and scope.physical_id not in physical_ids:
                raise OptionError("scope", f"table {table_id} has no partition {scope.physical_id}")
        if not scope.region_id:
            return LatchScope(table_id, scope.physical_id)
        self._check_region(PhysicalTableID(scope.physical_id), RegionID(scope.region_id))
        return LatchScope(table_id, scope.physical_id, RegionID(scope.region_id))

    def _check_region(self, physical_id: PhysicalTableID, region_id: RegionID) -> None:
        identity = read_identity(self._path, self._fs)
        engine = registry.open_reader(self._path, identity, self._fs, self._clock)
        with closing(engine):
            regions = engine.regions(engine.read([]), physical_id)
        if region_id not in [region.region_id for region in regions]:
            raise RegionNotFoundError(physical_id, region_id)


def latch_ttl_ms(requested_ms: int, max_ms: int = TTL_MS_MAX) -> int:
    """Return a latch's time to live; 0: the default. Raises `OptionError`: it is out of range."""
    ttl_ms = requested_ms or LEASE_TTL_MS
    if not TTL_MS_MIN <= ttl_ms <= max_ms:
        raise OptionError("ttl_ms", f"{ttl_ms} is not between {TTL_MS_MIN} and {max_ms}")
    return ttl_ms


def kind_of(request: message.AcquireRequest, call: CallContext) -> LatchKind:
    """Return the requested kind of latch.

    Raises:
        OptionError: The request is incomplete or contradicts itself.
        RoleError: The caller's role does not permit this kind.
    """
    kinds = {kind.value: kind for kind in _ROLES}
    if request.kind not in kinds:
        raise OptionError("kind", f"is none of {', '.join(kinds)}")
    kind = kinds[request.kind]
    check_role(call, kind)
    if request.moment != message.Moment() and kind is not LatchKind.READ:
        raise OptionError("moment", "only read latches have a moment")
    if request.mutates and kind is not LatchKind.ADMIN:
        raise OptionError("mutates", "is for admin latches")
    if not request.name and kind is not LatchKind.READ:
        raise OptionError("name", "is required for write and admin latches")
    if len(request.name) > NAME_CHARS_MAX or not request.name.isprintable():
        raise OptionError("name", f"has up to {NAME_CHARS_MAX} printable characters")
    return kind


def check_role(call: CallContext, kind: LatchKind) -> None:
    """Raise `RoleError` unless the caller may hold a latch of that kind."""
    needed = _ROLES.get(kind, Role.ADMIN)
    if call.role < needed:
        name = f"{call.method} of a {kind.value} latch"
        raise RoleError(name, needed.name.lower(), call.role.name.lower())
