"""The calls on latches: what a caller asks for, checked, and what becomes of it, told."""

from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import OptionError, RegionNotFoundError, RoleError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TableID, TimeStamp
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.status import told_latch
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.catalog import NOW_KINDS, schema_history, table_now
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.latch.grants import Grants
from pyspark_theflash.storage.store.latch.latch import (
    NAME_CHARS_MAX,
    Latch,
    LatchKind,
    LatchRequest,
    LatchScope,
)
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS
from pyspark_theflash.storage.store.manifest import Manifest

TTL_MS_MIN: Final = 1_000
TTL_MS_MAX: Final = 3_600_000
PIN_MS_MAX: Final = 366 * 86_400_000
_Told = TypeVar("_Told", message.Latch, message.Done)
_ROLES: Final = {
    LatchKind.READ: Role.READ,
    LatchKind.WRITE: Role.WRITE,
    LatchKind.ADMIN: Role.ADMIN,
}


class LatchDesk:
    """Where latches of one store are asked for; each call opens what it needs."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock

    def acquire(
        self,
        request: message.AcquireRequest,
        ttl_ms: int,
        call: CallContext,
        snapshot_ts: TimeStamp | None = None,
    ) -> Latch:
        """Wait for a latch and take it; `snapshot_ts` is what a read latch pins.

        Raises:
            LatchHeldError, LatchOrderError: see `Grants.acquire`.
            RoleError: the caller may not have one of that kind.
            OptionError, TableNotFoundError, RegionNotFoundError: there is no such thing to latch.
        """
        kind = kind_of(request, call)
        with closing(open_manifest(self._path, self._fs)) as manifest:
            scope = self._scope(request.scope, manifest)
            wanted = LatchRequest(kind, scope, ttl_ms, request.name, call.identity, request.mutates)
            return Grants(manifest, self._clock).acquire(
                wanted,
                wait_ms=min(request.wait_ms, call.left_ms()),
                check=call.check,
                snapshot_ts=snapshot_ts,
            )

    def renew_latch(self, request: message.LatchRequest, call: CallContext) -> message.Latch:
        """Start a latch's time over. Raises `LatchLostError`."""

        def renewed(grants: Grants) -> message.Latch:
            return told_latch(grants.renew(request.id, request.token), self._clock)

        return self._own(request, call, renewed)

    def release_latch(self, request: message.LatchRequest, call: CallContext) -> message.Done:
        """End a latch. Raises `LatchLostError`."""

        def released(grants: Grants) -> message.Done:
            grants.release(request.id, request.token)
            return message.Done("released")

        return self._own(request, call, released)

    def _own(
        self, request: message.LatchRequest, call: CallContext, act: Callable[[Grants], _Told]
    ) -> _Told:
        with closing(open_manifest(self._path, self._fs)) as manifest:
            grants = Grants(manifest, self._clock)
            check_role(call, grants.look(request.id, request.token).wanted.kind)
            return act(grants)

    def _scope(self, told: message.LatchScope, manifest: Manifest) -> LatchScope:
        """A scope by ids; what it names must be there, apart from a table that is known by id."""
        if told.table and told.table_id:
            raise OptionError("scope", "a table has a name or an id, not both")
        levels = (told.table or told.table_id, told.physical_id, told.region_id)
        if any(later and not before for before, later in pairwise(levels)):
            raise OptionError("scope", "a partition needs its table, and a region its partition")
        view = manifest.read(NOW_KINDS)
        table_id = table_now(view, told.table).id if told.table else told.table_id
        if not told.physical_id:
            return LatchScope(table_id or None)
        history = schema_history(view)
        if history is not None and table_id:
            known = {
                i for event in history.events_of(TableID(table_id)) for i in event.physical_ids
            }
            if known and told.physical_id not in known:
                raise OptionError("scope", f"table {table_id} has no partition {told.physical_id}")
        if not told.region_id:
            return LatchScope(table_id, told.physical_id)
        self._check_region(PhysicalTableID(told.physical_id), RegionID(told.region_id))
        return LatchScope(table_id, told.physical_id, RegionID(told.region_id))

    def _check_region(self, physical_id: PhysicalTableID, region_id: RegionID) -> None:
        identity = read_identity(self._path, self._fs)
        engine = registry.open_reader(self._path, identity, self._fs, self._clock)
        with closing(engine):
            regions = engine.regions(engine.read([]), physical_id)
        if region_id not in [region.region_id for region in regions]:
            raise RegionNotFoundError(physical_id, region_id)


def latch_ttl_ms(wanted_ms: int, max_ms: int = TTL_MS_MAX) -> int:
    """For how long a latch is granted; 0: as usual. Raises `OptionError` where that is too long."""
    ttl_ms = wanted_ms or LEASE_TTL_MS
    if not TTL_MS_MIN <= ttl_ms <= max_ms:
        raise OptionError("ttl_ms", f"{ttl_ms} is not between {TTL_MS_MIN} and {max_ms}")
    return ttl_ms


def kind_of(request: message.AcquireRequest, call: CallContext) -> LatchKind:
    """Which latch is asked for, if the caller may and has said all that it takes.

    Raises:
        OptionError, RoleError: it has not, or may not.
    """
    known = {kind.value: kind for kind in _ROLES}
    if request.kind not in known:
        raise OptionError("kind", f"is none of {', '.join(known)}")
    kind = known[request.kind]
    check_role(call, kind)
    if request.moment != message.Moment() and kind is not LatchKind.READ:
        raise OptionError("moment", "only read latches are of a moment")
    if request.mutates and kind is not LatchKind.ADMIN:
        raise OptionError("mutates", "is for admin latches")
    if not request.name and kind is not LatchKind.READ:
        raise OptionError("name", "who holds such a latch has a name")
    if len(request.name) > NAME_CHARS_MAX or not request.name.isprintable():
        raise OptionError("name", f"has up to {NAME_CHARS_MAX} printable characters")
    return kind


def check_role(call: CallContext, kind: LatchKind) -> None:
    """Raise `RoleError` unless the caller may hold a latch of that kind."""
    needed = _ROLES.get(kind, Role.ADMIN)
    if call.role < needed:
        named = f"{call.method} of a {kind.value} latch"
        raise RoleError(named, needed.name.lower(), call.role.name.lower())
