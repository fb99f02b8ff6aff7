"""All regions of a store in memory: commands in, and what is to be published out.

    apply(commands)  ──►  regions: range, epoch, applied index      ──►  freeze()  ──►  the engine
                          cache: versions, locks, long rows               a cut through all regions

Commands of one batch are applied together: a run of puts and deletes, of however many regions, is
decoded as one; admin commands cut a batch into runs. A command at or below a region's applied index
has been applied before, and is skipped.

`freeze` takes all that changed since the last one: versions, the states of regions, what is new
among pending entries. It is one moment of all regions at once, so that what a publication holds is
a prefix of what was applied. `published` then says that it is durable, and only from then on is it
reported as applied to who sends the commands.

    records   kv-region   id        a region's state (`RegionRecord`)
              kv-pending  sequence  see `pending_records`

A few commands may wait to be decoded with later ones (`waiting`) until somebody asks for them.
"""

import bisect
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    CodecError,
    RaftCommandError,
    RegionBehindError,
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
)
from pyspark_theflash.base.types import RegionID
from pyspark_theflash.cluster.key_range import EncodedKeyRange
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View
from pyspark_theflash.tikv.cache import Cache
from pyspark_theflash.tikv.command import (
    Admin,
    Applied,
    ChangePeers,
    CommitMerge,
    CompactLog,
    DeleteRange,
    PrepareMerge,
    RaftCommand,
    RollbackMerge,
    SplitRegion,
)
from pyspark_theflash.tikv.memory_versions import NewestRows
from pyspark_theflash.tikv.pending_records import PENDING_RECORD, PendingRecords
from pyspark_theflash.tikv.region import (
    ApplyState,
    RaftRegion,
    RegionState,
    child_of,
    commit_merge,
    gap,
    prepare_merge,
    rollback_merge,
)
from pyspark_theflash.tikv.request import FAMILIES, decode_pieces, sort_requests
from pyspark_theflash.tikv.versions import Versions
from pyspark_theflash.tikv.waiting import Waiting
from pyspark_theflash.tikv.wire import decode_region_state, encode_region_state

REGION_RECORD: Final = "kv-region"

Part: TypeAlias = list[bytes] | DeleteRange | Versions
"""Puts and deletes; what is to be forgotten of pending entries; versions."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The changes to be published in one step: everything applied since the last publication."""

    versions: Sequence[Versions]
    change: ManifestChange
    states: Sequence[RegionState]
    gone: Sequence[RegionID]
    size_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether publishing it would change nothing."""
        return not (self.versions or self.change.puts or self.change.deletes)


class RegionStore:
    """See the module. Methods may be called in any thread, those that change things in one."""

    def __init__(self) -> None:
        self.mutex: Final = threading.RLock()
        self._cache: Final = Cache()
        self._waiting: Final = Waiting()
        self._failure: Exception | None = None
        self.newest: Final = NewestRows()
        self._moved = threading.Condition(self.mutex)
        self._regions: dict[RegionID, RegionState] = {}
        self._order: list[tuple[bytes, RegionID]] | None = []
        self._durable: dict[RegionID, ApplyState] = {}
        self._dirty: set[RegionID] = set()
        self._gone: set[RegionID] = set()
        self._frozen: Frozen | None = None
        self._news: set[RegionID] = set()
        self.removals = 0
        """How many regions have left since this was made, with the rows in their range."""
        self._pending: Final = PendingRecords(self._cache)

    # -- what is there

    @property
    def size_bytes(self) -> int:
        """About what is in memory and not in the engine."""
        with self.mutex:
            frozen = self._frozen.size_bytes if self._frozen else 0
            return self._cache.size_bytes + self._waiting.size_bytes + frozen

    @property
    def version_bytes(self) -> int:
        """About what will be published of it."""
        return self._cache.version_bytes + self._waiting.size_bytes

    @property
    def cache(self) -> Cache:
        """The applied data that is not published. Raises as `apply` does."""
        with self.mutex:
            self._catch_up()
            return self._cache

    @property
    def is_changed(self) -> bool:
        """Whether anything was applied since the last `freeze`."""
        return bool(self._waiting or self._dirty or self._gone or self._cache.versions)

    @property
    def is_frozen(self) -> bool:
        """Whether something waits to be published since a `freeze`."""
        return self._frozen is not None

    def regions(self) -> Sequence[RegionState]:
        """All regions, in key order."""
        with self.mutex:
            self._catch_up()
            if self._order is None:
                self._order = sorted((s.region.start, s.id) for s in self._regions.values())
            return [self._regions[region_id] for _, region_id in self._order]

    def region(self, region_id: RegionID) -> RegionState | None:
        """A region; None where the store has none of that id."""
        with self.mutex:
            self._catch_up()
            return self._regions.get(region_id)

    def within(self, keys: EncodedKeyRange) -> Sequence[RegionState]:
        """The regions that have some of these keys, in key order."""
        found = self.regions()
        first = bisect.bisect_right(found, keys.start, key=lambda s: s.region.start) - 1
        last = len(found)
        if keys.end:
            last = bisect.bisect_left(found, keys.end, key=lambda s: s.region.start)
        return [s for s in found[max(first, 0) : last] if _reaches(s.region, keys)]

    def uncovered(self) -> Sequence[EncodedKeyRange]:
        """All keys that no region has, in order."""
        gaps, start = [], b""
        regions = [state.region for state in self.regions()]
        while (missing := gap(regions, start, b"")) is not None:
            gaps.append(EncodedKeyRange(*missing))
            if not missing[1]:
                break
            start = missing[1]
        return gaps

    def check_covered(
        self, keys: EncodedKeyRange, versions: "dict[RegionID, int] | None" = None
    ) -> Sequence[RegionState]:
        """The regions that have some of these keys, if together they have all of them.

        Args:
            versions: of which epoch's version the regions were when they were looked up, where
                they must be the same still.

        Raises:
            RegionGapError: some keys are in no region.
            RegionNotReadableError: a region is merging.
            RegionEpochNotMatchError: a region is another than it was.
        """
        with self.mutex:
            found = self.within(keys)
            if (missing := gap((s.region for s in found), keys.start, keys.end)) is not None:
                raise RegionGapError(missing[0].hex(), missing[1].hex())
            for state in found:
                if not state.is_readable:
                    raise RegionNotReadableError(state.id, f"is {state.state.name.lower()}")
                wanted = versions and versions.get(state.id)
                version = state.region.epoch.version
                if versions is not None and wanted != version:
                    raise RegionEpochNotMatchError(state.id, wanted or 0, version)
            return found

    def wait_applied(self, region_id: RegionID, index: int, deadline: Deadline) -> None:
        """Wait until a region has applied its log up to an index, as a learner's read does.

        Raises:
            RegionNotReadableError: there is no such region.
            RegionBehindError: not by the deadline.
        """
        with self._moved:
            while True:
                state = self.region(region_id)
                if state is None:
                    raise RegionNotReadableError(region_id, "is not here")
                if state.applied.applied_index >= index:
                    return
                left_ms = deadline.left_ms()
                if not left_ms:
                    raise RegionBehindError(region_id, state.applied.applied_index, index)
                self._moved.wait(left_ms / 1000)

    def answers(self, region_ids: Iterable[RegionID]) -> list[Applied]:
        """How far regions are durable; the others are gone."""
        with self.mutex:
            return [
                Applied(i, self._durable.get(i, _NOTHING) if i in self._regions else None)
                for i in dict.fromkeys(region_ids)
            ]

    def take_news(self) -> list[Applied]:
        """How far regions are durable that have come further since this was last asked."""
        with self.mutex:
            news, self._news = self._news, set()
            return self.answers(sorted(news))

    # -- applying

    def apply(self, commands: Sequence[RaftCommand]) -> int:
        """Apply commands in order, up to one that asks for more than puts and deletes.

        A few may wait to be decoded with later ones, at the latest when somebody asks for what is
        applied; whoever asks is told what is wrong with them.

        Returns: how many are applied or were before. If it raises, make another store from what is
        durable.

        Raises:
            CodecError: a request that is none.
            CorruptionError: a commit whose row is nowhere.
            RaftCommandError: a command that does not follow from what was applied.
        """
        with self._moved:
            try:
                if self._failure is None and self._waiting.add(commands):
                    return len(commands)
                self._catch_up()
                return self._apply(commands)
            finally:
                self._moved.notify_all()

    def apply_parts(self, command: RaftCommand, parts: Sequence[Part]) -> None:
        """Apply a command that asks for more, as what the store can do: in place of `apply`."""
        with self._moved:
            self._catch_up()
            for part in parts:
                if isinstance(part, list):
                    for piece in decode_pieces(part):
                        self._cache.apply(piece)
                elif isinstance(part, DeleteRange):
                    self._cache.cut_family(FAMILIES[part.cf], part.start, part.end)
                else:
                    self._cache.add([part])
            self._put(_applied_to(self._regions[command.region_id], command))
            self._moved.notify_all()

    def is_new(self, command: RaftCommand) -> bool:
        """Whether a command is of a region that is here, and has not been applied."""
        state = self.region(command.region_id)
        return state is not None and command.index > state.applied.applied_index

    def _catch_up(self) -> None:
        """Apply what waits. What has failed once is told to everybody who asks later."""
        if self._waiting:
            try:
                self._apply(self._waiting.take())
            except Exception as error:  # noqa: BLE001 (raised below)
                self._failure = error
        if self._failure is not None:
            raise self._failure

    def _apply(self, commands: Sequence[RaftCommand]) -> int:
        run: list[tuple[int, RaftCommand]] = []
        reached: dict[RegionID, int] = {}
        for number, command in enumerate(commands):
            state = self._regions.get(command.region_id)
            if state is None:
                continue
            index = reached.get(state.id, state.applied.applied_index)
            if command.admin is None and not command.destroys:
                if command.index > index:
                    run.append((number, command))
                    reached[state.id] = command.index
                continue
            if (done := self._end_run(run)) is not None:
                return done
            run, reached = [], {}
            if command.destroys:
                self.remove(state.id)
            elif command.index > index:
                self._apply_admin(self._regions[state.id], command)
        done = self._end_run(run)
        return len(commands) if done is None else done

    def _end_run(self, run: list[tuple[int, RaftCommand]]) -> int | None:
        """Apply the requests of some commands; returns the place of one that asks for more."""
        messages = [message for _, command in run for message in command.requests]
        try:
            pieces = decode_pieces(messages)
        except CodecError:
            return self._apply_apart(run)
        for piece in pieces:
            self._cache.apply(piece)
        newest = {command.region_id: command for _, command in run}
        for region_id, command in newest.items():
            self._put(_applied_to(self._regions[region_id], command))
        return None

    def _apply_apart(self, run: list[tuple[int, RaftCommand]]) -> int | None:
        """Commands one by one: something in them is not a put or a delete, or written otherwise."""
        for number, command in run:
            parts = sort_requests(command.requests)
            if not all(isinstance(part, list) for part in parts):
                return number
            for part in parts:
                for piece in decode_pieces(part) if isinstance(part, list) else ():
                    self._cache.apply(piece)
            self._put(_applied_to(self._regions[command.region_id], command))
        return None

    def _apply_admin(self, state: RegionState, command: RaftCommand) -> None:
        state = _applied_to(state, command)
        self._put(state)
        admin = command.admin
        if isinstance(admin, SplitRegion):
            self._split(state, admin.regions)
        elif isinstance(admin, ChangePeers):
            self._put(replace(state, region=admin.region))
            if state.peer and admin.region.peer_on(state.peer.store_id) is None:
                self.remove(state.id)
        elif admin is not None:
            self._put(self._changed(state, admin))

    def _changed(self, state: RegionState, admin: Admin) -> RegionState:
        index = state.applied.applied_index
        if isinstance(admin, CompactLog):
            cut = replace(state.applied, truncated_index=admin.index, truncated_term=admin.term)
            return replace(state, applied=cut)
        if isinstance(admin, PrepareMerge):
            return prepare_merge(state, admin.min_index, admin.target, index)
        if isinstance(admin, RollbackMerge):
            return rollback_merge(state)
        if isinstance(admin, CommitMerge):
            return self._merge(state, admin)
        return state

    def _split(self, parent: RegionState, regions: Sequence[RaftRegion]) -> None:
        if all(region.id != parent.id for region in regions):
            reason = "a split that leaves nothing of the region"
            raise RaftCommandError(parent.id, parent.applied.applied_index, reason)
        for region in regions:
            known = self._regions.get(region.id)
            if region.id == parent.id:
                self._put(replace(parent, region=region))
            elif known is None or known.region.epoch.version < region.epoch.version:
                self._put(child_of(parent, region))

    def _merge(self, target: RegionState, merge: CommitMerge) -> RegionState:
        index = target.applied.applied_index
        source = self._regions.get(merge.source.id)
        if source is None:
            reason = f"region {merge.source.id}, which is to be merged into it, is not here"
            raise RaftCommandError(target.id, index, reason)
        if source.applied.applied_index < merge.commit:
            reason = (
                f"region {source.id} is to be merged at its index {merge.commit}, "
                f"and is at {source.applied.applied_index}"
            )
            raise RaftCommandError(target.id, index, reason)
        region = commit_merge(target.region, merge.source)
        if region is None:
            reason = f"region {source.id}, which is to be merged into it, is no neighbour"
            raise RaftCommandError(target.id, index, reason)
        self._forget(source.id)
        return replace(target, region=region)

    def remove(self, region_id: RegionID) -> None:
        """Forget a region, and what waits in its range."""
        with self._moved:
            self._catch_up()
            region = self._regions[region_id].region
            self._forget(region_id)
            self._cache.cut(region.start, region.end)
            self.removals += 1
            self._moved.notify_all()

    def install(self, state: RegionState, covered: Iterable[RegionID]) -> None:
        """Put a region in the place of those that it covers."""
        with self._moved:
            self._catch_up()
            for region_id in covered:
                if region_id != state.id:
                    self._forget(region_id)
            self._put(state)
            self._moved.notify_all()

    def _put(self, state: RegionState) -> None:
        before = self._regions.get(state.id)
        self._regions[state.id] = state
        self._dirty.add(state.id)
        self._gone.discard(state.id)
        # Few commands move a bound, and a thousand regions are not to be sorted for the others.
        if before is None or before.region is not state.region:
            self._order = None

    def _forget(self, region_id: RegionID) -> None:
        del self._regions[region_id]
        self._dirty.discard(region_id)
        self._gone.add(region_id)
        self._order = None

    # -- publishing

    def freeze(self) -> Frozen:
        """All that changed since the last `freeze`, whose publication must be done.

        Raises as `apply` does.
        """
        with self.mutex:
            self._catch_up()
            puts, deletes = self._pending.freeze()
            states = [self._regions[i] for i in sorted(self._dirty)]
            puts += [Record(REGION_RECORD, _key(s.id), encode_region_state(s)) for s in states]
            gone = sorted(i for i in self._gone if i in self._durable)
            deletes += [(REGION_RECORD, _key(i)) for i in gone]
            size_bytes = self._cache.version_bytes
            versions = self._cache.take_versions()
            self._dirty, self._gone = set(), set()
            self._frozen = Frozen(versions, ManifestChange(puts, deletes), states, gone, size_bytes)
            return self._frozen

    def published(self, frozen: Frozen) -> None:
        """Note that what was frozen is durable and visible in the engine."""
        with self._moved:
            self._frozen = None
            self.newest.forget()
            self._durable.update((state.id, state.applied) for state in frozen.states)
            for region_id in frozen.gone:
                self._durable.pop(region_id, None)
            self._news.update(state.id for state in frozen.states)
            self._moved.notify_all()

    def unflushed(self) -> list[Versions]:
        """The versions that the engine may not have yet."""
        with self.mutex:
            self._catch_up()
            return [*(self._frozen.versions if self._frozen else ()), *self._cache.versions]

    @classmethod
    def recover(cls, view: View) -> "RegionStore":
        """Make the store that was durable when the records of `view` were published.

        Raises:
            CodecError: a record that is none.
        """
        store = cls()
        for body in view.of_kind(REGION_RECORD).values():
            state = decode_region_state(body)
            store._regions[state.id] = state
            store._durable[state.id] = state.applied
        store._order = None
        store._pending.restore(view.of_kind(PENDING_RECORD))
        return store


_NOTHING: Final = ApplyState(0, 0)


def _applied_to(state: RegionState, command: RaftCommand) -> RegionState:
    before = state.applied
    applied = ApplyState(command.index, command.term, before.truncated_index, before.truncated_term)
    return RegionState(state.region, applied, state.peer, state.state, state.merge)


def _key(number: int) -> str:
    return f"{number:020d}"


def _reaches(region: RaftRegion, keys: EncodedKeyRange) -> bool:
    return EncodedKeyRange(region.start, region.end).within(keys) is not None
