"""Schema source that reads the history of a running cluster from TiDB's meta keys.

TiKV retains old versions of meta keys as it does those of rows. So every state of a table is stored
with the commit_ts from which it is valid, including those in the middle of a DDL job, and the
history of a live cluster has the same content as a schema file.

    SchemaVersionKey   every version, and when it was raised
        │ for each version
    Diff:VERSION       which tables it changed, and by which transaction
        │ for each table
    DB:ID/Table:ID     the state that this transaction wrote

End of the history
------------------

`read(at_least)` takes a timestamp that the cluster allocated *before* the call: a TSO of PD, or the
commit_ts of a received binlog. A DDL transaction that commits at or below it has already locked its
keys when they are read. (DDL uses neither async commit nor 1PC, whose commit_ts can be lower: they
require a session, and the DDL owner's transactions have none.) So a key shows either the change or
the lock. If a key is locked, the history ends at the lock's start_ts, and is read again a little
later.

Start of the history
--------------------

A new history starts from the databases and tables that a TiDB server has loaded. The server may be
slightly behind, so the newest SchemaDiff must be visible in its list, and the history starts at
that change or above. The state of each table is then read from its key.

Garbage collection
------------------

TiKV drops versions below the cluster's GC safe point (10 minutes back, by default), except the
newest of each key. A reader that runs less often and holds no service safe point at PD misses
states. `lost` reconstructs them as far as possible. Rows of a state that cannot be reconstructed
are decoded under the one before, or rejected if they have a column that it does not have.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    NotCaughtUpError,
    SchemaConflictError,
    SchemaFileError,
    UnsupportedError,
)
from pyspark_theflash.base.types import MAX_TS, SchemaVersion, TableID, TimeStamp, physical_ms
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, int64, load, text
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.diff import Action, Place, SchemaDiff, parse_diff
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.tidb.schema.lineage import changed_columns
from pyspark_theflash.tidb.schema.lost import FinishedJobs, LostState, bridged, job_result
from pyspark_theflash.tidb.schema.meta_key import (
    SCHEMA_VERSION_KEY,
    ListedDatabase,
    MetaKey,
    MetaReader,
    MetaWrite,
    Outcome,
    database_key,
    diff_key,
    table_key,
)
from pyspark_theflash.tidb.schema.model import STATE_PUBLIC, parse_table_info, with_sessions

TIMEOUT_MS: Final = 30_000
_RETRY_MS: Final = 50
_JOB_WAIT_MS: Final = 20_000
# A version without a SchemaDiff belongs to a failed transaction; long runs of them do not occur.
_MAX_HOLES: Final = 1000
# The shortest GC life time that TiDB accepts.
_GC_LIFE_MS_MIN: Final = 600_000
_CLOCKS_DIFFER_MS: Final = 60_000


class TidbSchemaSource:
    """Reader of one cluster's schema history: first all of it, then increments.

    `timeout_ms` limits waiting, not reading: the first read takes one call per table.
    """

    def __init__(self, reader: MetaReader, clock: Clock, timeout_ms: int = TIMEOUT_MS) -> None:
        self._reader, self._clock, self._timeout_ms = reader, clock, timeout_ms
        self._missed_ms: dict[SchemaVersion, int] = {}

    def read(self, at_least: TimeStamp, after: SchemaHistory | None = None) -> SchemaHistory:
        """Return `after` continued, or a new history that starts now.

        Args:
            at_least: A timestamp allocated before this call. The history ends there or later; a new
                one also starts there or later, so it is not below the newest schema change.
            after: The history to continue.

        Raises:
            NotCaughtUpError: Until the timeout, a DDL transaction held its locks or, for a new
                history, the server's tables were behind the keys.
            SchemaConflictError: `after` is not of this cluster.
            UnsupportedError: The cluster was restored as a whole, which the binlog does not have.
            SchemaFileError: A key has unexpected content.
            ServiceUnavailableError, SchemaSourceError: As raised by the reader.
        """
        deadline = Deadline(self._clock, self._timeout_ms)
        while True:
            scan = _MetaScan(self._reader, at_least, self._may_wait)
            history = scan.continue_from(after) if after else scan.begin()
            if history is not None and history.end_ts >= at_least:
                return history
            if not deadline.left_ms():
                raise NotCaughtUpError(history.end_ts if history else 0, at_least)
            deadline.sleep_ms(_RETRY_MS)

    def continue_from(self, after: SchemaHistory, up_to: TimeStamp) -> SchemaHistory:
        """Return `after` continued up to a timestamp, or less far if a change is not complete.

        Does not wait. Raises as `read` does.
        """
        return _MetaScan(self._reader, up_to, self._may_wait).continue_from(after)

    def _may_wait(self, version: SchemaVersion) -> bool:
        """Return whether to wait for a finished job with this version.

        TiDB stores the finished job some time after the version, or never.
        """
        now_ms = self._clock.boottime_ms()
        return now_ms < self._missed_ms.setdefault(version, now_ms) + _JOB_WAIT_MS

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        """Return whether a committed transaction wrote a key.

        Returns:
            None if unknown: TiKV has no such write, but may have garbage collected it.

        Raises:
            ServiceUnavailableError, SchemaSourceError: As raised by the reader.
        """
        state = self._reader.read_key(key)
        if state.of(start_ts) is not None or state.locked_ts == start_ts:
            return True
        return None if self._may_be_collected(start_ts) else False

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        """Return whether a record existed at `ts`, a timestamp that the cluster has allocated.

        Returns:
            None if unknown: an older transaction held its lock until the timeout, or no version
            from that time is left and it may have been garbage collected.

        Raises:
            ServiceUnavailableError, SchemaSourceError: As raised by the reader.
        """
        deadline = Deadline(self._clock, self._timeout_ms)
        while (state := self._reader.read_key(key)).locked_ts is not None and state.locked_ts < ts:
            if not deadline.left_ms():
                return None
            deadline.sleep_ms(_RETRY_MS)
        if (write := state.at(ts)) is not None:
            return write.value is not None
        return None if self._may_be_collected(ts) else False

    def _may_be_collected(self, ts: TimeStamp) -> bool:
        """Return whether versions from `ts` on may have been garbage collected."""
        age_ms = self._clock.wall_ms() - physical_ms(ts)
        return age_ms > _GC_LIFE_MS_MIN - _CLOCKS_DIFFER_MS

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome:
        """Return the outcome of a transaction, read from its primary key.

        Raises:
            ServiceUnavailableError, SchemaSourceError: As raised by the reader.
        """
        return self._reader.read_key(primary).outcome(start_ts)


class _MetaScan:
    """One pass over a cluster's meta keys; each key is read once."""

    def __init__(
        self, reader: MetaReader, at_least: TimeStamp, may_wait: Callable[[SchemaVersion], bool]
    ) -> None:
        self._reader, self._may_wait = reader, may_wait
        self._keys: dict[bytes, MetaKey] = {}
        self._wanted_ts, self._locked_ts = at_least, MAX_TS
        self._versions = [_version_at(w) for w in self._key(SCHEMA_VERSION_KEY).writes]
        if not self._versions:
            raise SchemaFileError("SchemaVersionKey", "the cluster has no schema version")

    @property
    def _newest(self) -> SchemaVersionAt:
        return self._versions[-1]

    @property
    def _end_ts(self) -> TimeStamp:
        """The timestamp up to which the keys that were read show all changes."""
        return min(self._wanted_ts, self._locked_ts)

    def begin(self) -> SchemaHistory | None:
        """Return a history of the current tables; None if it must be tried again."""
        listed = self._reader.list_databases()
        newest = next(self._diffs(TimeStamp(0), self._newest.version), None)
        if not self._shows_newest(listed):
            return None
        if self._reader.read_key(SCHEMA_VERSION_KEY) != self._key(SCHEMA_VERSION_KEY):
            return None
        # The list does not have the tables that the newest change dropped.
        oldest_ts = max(self._newest.ts, newest.commit_ts if newest else TimeStamp(0))
        self._wanted_ts = max(self._wanted_ts, oldest_ts)
        # TiDB may list the same table twice.
        names = {(db.id, table.id): db.name for db in listed for table in db.tables}
        keys = {place: self._table_key(*place) for place in names}
        start_ts = self._end_ts
        if start_ts < oldest_ts:
            return None
        events = [
            _event(start_ts, names[place], place[1], write)
            for place, key in keys.items()
            if (write := key.at(start_ts)) is not None and write.value is not None
        ]
        return SchemaHistory(start_ts, start_ts, events, [self._newest])

    def continue_from(self, history: SchemaHistory) -> SchemaHistory:
        """Return `history` extended by all later changes."""
        self._check_same_cluster(history)
        last_version = history.versions[-1].version if history.versions else SchemaVersion(0)
        diffs = list(self._diffs(history.end_ts, last_version))[::-1]
        jobs = FinishedJobs(
            self._reader, min([last_version, *(SchemaVersion(d.version - 1) for d in diffs)])
        )
        events, gaps = list(history.events), list[LostState]()
        seen = set[tuple[TimeStamp, str, TableID]]()
        for diff in diffs:
            changed, lost = self._changes(diff, events, jobs)
            changed = [self._with_sessions(event, diff, events, jobs) for event in changed]
            # One transaction may raise several versions.
            events += [e for e in changed if (e.ts, e.db, e.table_id) not in seen]
            seen |= {(e.ts, e.db, e.table_id) for e in changed}
            gaps += lost
        events += bridged(events, gaps)
        # A version whose own write was garbage collected starts at the commit of its tables.
        raised = {d.version: d.commit_ts for d in diffs} | {v.version: v.ts for v in self._versions}
        versions = [SchemaVersionAt(ts, v) for v, ts in raised.items() if v > last_version]
        end_ts = max(self._end_ts, history.end_ts)
        return SchemaHistory(
            history.start_ts,
            end_ts,
            [e for e in events if e.ts <= end_ts],
            [*history.versions, *(v for v in versions if v.ts <= end_ts)],
        )

    def _check_same_cluster(self, history: SchemaHistory) -> None:
        if not history.versions:
            return
        last = history.versions[-1]
        same = {v.version: v.ts for v in self._versions}.get(last.version, last.ts)
        if last.version > self._newest.version or same != last.ts:
            raise SchemaConflictError(f"schema version {last.version}", last.ts)

    def _key(self, key: bytes) -> MetaKey:
        state = self._keys.get(key)
        if state is None:
            state = self._keys[key] = self._reader.read_key(key)
            if state.locked_ts is not None:
                self._locked_ts = min(self._locked_ts, state.locked_ts)
        return state

    def _table_key(self, database_id: int, table_id: TableID) -> MetaKey:
        return self._key(table_key(database_id, table_id))

    def _diff(self, version: SchemaVersion) -> SchemaDiff | None:
        writes = self._key(diff_key(version)).writes
        if not writes:
            return None
        try:
            return parse_diff(version, writes[-1])
        except SHAPE_ERRORS as error:
            reason = f"not a SchemaDiff: {brief(error)}"
            raise SchemaFileError(f"Diff:{version}", reason) from error

    def _diffs(self, above_ts: TimeStamp, last_version: SchemaVersion) -> Iterator[SchemaDiff]:
        """Yield the diffs committed above a timestamp, newest first.

        They may include versions up to `last_version`, whose transactions committed meanwhile.

        Raises:
            SchemaFileError: More than `_MAX_HOLES` consecutive versions have no SchemaDiff.
        """
        holes = 0
        for version in range(self._newest.version, max(last_version - _MAX_HOLES, 0), -1):
            diff = self._diff(SchemaVersion(version))
            holes = 0 if diff is not None else holes + 1
            if version > last_version and holes > _MAX_HOLES:
                reason = f"is {self._newest.version}, but no SchemaDiff exists down to {version}"
                raise SchemaFileError("SchemaVersionKey", reason)
            if diff is not None:
                if diff.commit_ts <= above_ts:
                    return
                yield diff

    def _changes(
        self, diff: SchemaDiff, before: Sequence[TableEvent], jobs: FinishedJobs
    ) -> tuple[list[TableEvent], list[LostState]]:
        """Return (events of one schema version, its lost states); `before` are earlier events."""
        if diff.rebuilds_all:
            what = "a cluster restored as a whole (FLASHBACK CLUSTER, point-in-time recovery)"
            raise UnsupportedError(what, f"schema version {diff.version}")
        changed, lost = list[TableEvent](), list[LostState]()
        for place in sorted(self._places(diff, before, jobs)):
            database_id, table_id = place
            name = self._database_name(database_id, jobs)
            if name is None:
                continue
            key = self._table_key(database_id, table_id)
            write = key.of(diff.start_ts)
            if write is not None:
                changed.append(_event(diff.commit_ts, name, table_id, write))
            elif key.at(diff.commit_ts) is None:
                # The previous state was garbage collected as well.
                job = jobs.at(diff.version)
                if job is None:
                    lost.append(LostState(diff.commit_ts, name, table_id, diff.action))
                elif (result := job_result(job, diff, place, name)) is not None:
                    changed.append(result)
        return changed, lost

    def _with_sessions(
        self, event: TableEvent, diff: SchemaDiff, before: Sequence[TableEvent], jobs: FinishedJobs
    ) -> TableEvent:
        """Return the event with the session of the MODIFY COLUMN that it ends, if available."""
        if event.table is None or diff.action not in (Action.MODIFY_COLUMN, Action.MULTI):
            return event
        states = (e.table for e in reversed(before) if e.table_id == event.table_id)
        last = next(states, None)
        changed = () if last is None else changed_columns(last, event.table)
        if not changed:
            return event
        job = jobs.at(diff.version)
        if job is None and self._may_wait(diff.version):
            self._locked_ts = min(self._locked_ts, TimeStamp(diff.commit_ts - 1))
        if job is None or job.session is None:
            return event
        session = replace(job.session, to_ms=physical_ms(diff.commit_ts))
        table = with_sessions(event.table, dict.fromkeys(changed, session))
        return TableEvent(event.ts, event.db, event.table_id, table)

    def _places(
        self, diff: SchemaDiff, before: Sequence[TableEvent], jobs: FinishedJobs
    ) -> frozenset[Place]:
        """Return the places a schema version may have changed; `before` are earlier events."""
        places = diff.places | diff.removed
        if diff.action != Action.DROP_DATABASE:
            return places
        name = self._database_name(diff.database_id, jobs)
        last = {(e.db, e.table_id): e.table for e in before}
        return places | {
            (diff.database_id, table_id)
            for (db, table_id), table in last.items()
            if db == name and table is not None
        }

    def _database_name(self, database_id: int, jobs: FinishedJobs) -> str | None:
        """Return a database's name, which never changes; None if it is no longer stored."""
        for write in self._key(database_key(database_id)).writes:
            if write.value is not None:
                try:
                    return text(load(write.value)["db_name"]["O"])
                except SHAPE_ERRORS as error:
                    reason = f"not a DBInfo: {brief(error)}"
                    raise SchemaFileError(f"DB:{database_id}", reason) from error
        return jobs.database_name(database_id)

    def _shows_newest(self, listed: Sequence[ListedDatabase]) -> bool:
        """Return whether a server's list of tables includes the newest schema change."""
        tables = {
            (db.id, t.id): t.update_ts if t.is_public else None for db in listed for t in db.tables
        }
        databases = {db.id for db in listed}
        for diff in self._diffs(TimeStamp(0), self._newest.version):
            if diff.action == Action.DROP_DATABASE:
                return diff.database_id not in databases
            if diff.action in (Action.CREATE_DATABASE, Action.RECOVER_DATABASE):
                return diff.database_id in databases
            if places := diff.places | diff.removed:
                return all(tables.get(p) == _update_ts(p, self._table_key(*p)) for p in places)
        return True


def _version_at(write: MetaWrite) -> SchemaVersionAt:
    try:
        version = int64(int(write.value or b""))
        return SchemaVersionAt(write.commit_ts, SchemaVersion(version))
    except SHAPE_ERRORS as error:
        raise SchemaFileError("SchemaVersionKey", "not a number") from error


def _event(ts: TimeStamp, database: str, table_id: TableID, write: MetaWrite) -> TableEvent:
    if write.value is None:
        return TableEvent(ts, database, table_id, None)
    try:
        table = parse_table_info(database, load(write.value))
    except SHAPE_ERRORS as error:
        raise SchemaFileError(f"Table:{table_id} in {database}", "not JSON") from error
    return TableEvent(ts, database, table_id, table)


def _update_ts(place: Place, key: MetaKey) -> TimeStamp | None:
    """Return when the table at a place was last changed; None if it is not public."""
    value = key.writes[-1].value if key.writes else None
    if value is None:
        return None
    try:
        info = load(value)
        return TimeStamp(info["update_timestamp"]) if info["state"] == STATE_PUBLIC else None
    except SHAPE_ERRORS as error:
        reason = f"not a TableInfo: {brief(error)}"
        raise SchemaFileError(f"Table:{place[1]}", reason) from error
