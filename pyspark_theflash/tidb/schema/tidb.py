"""The schema history of a running cluster, from the changes of TiDB's own meta keys.

TiKV keeps old versions of meta keys as it keeps those of rows, so each state that a table went
through stands there with the commit_ts it holds from, those in the middle of a DDL job included:
what a schema file says can be said of a live cluster.

    SchemaVersionKey   every version, and when it was raised
        │ for each version
    Diff:VERSION       which tables it changed, and by which transaction
        │ for each table
    DB:ID/Table:ID     the state that this transaction wrote

Up to where it is vouched for
-----------------------------

`read(at_least)` is given a timestamp that the cluster has handed out *before* the call: a TSO of
PD, or the commit_ts of a binlog that has arrived. A DDL transaction that commits at or below it has
already locked its keys by the time these are read (DDL uses neither async commit nor 1PC, whose
commit_ts can be lower: they need a session, and the DDL owner's have none). So a key shows the
change, or shows the lock. Where one is locked, the history ends at the lock's start_ts, and is read
again a little later.

The beginning
-------------

At first there is no version to start from: the databases and tables are those that a TiDB server
has loaded. It may be a moment behind, so the newest SchemaDiff must show in what it lists, and the
history begins at that change or above. The state of each table then comes from its key.

What garbage collection takes away
----------------------------------

TiKV drops versions below the cluster's GC safe point (10 minutes back, by default), except the
newest of each key. Whoever reads more seldom and does not hold a service safe point at PD misses
states. `lost` tells what they were, as far as that is possible; rows of a state that it cannot tell
decode under the one before, or are refused if they hold a column that it lacks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pyspark_theflash.base.clock import Clock
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
# A version whose transaction failed has no SchemaDiff. They come alone.
_MAX_HOLES: Final = 1000
# TiDB takes no shorter one.
_GC_LIFE_MS_MIN: Final = 600_000
_CLOCKS_DIFFER_MS: Final = 60_000


class TidbSchemaSource:
    """Reads the schema history of one cluster, at first whole, then what is new.

    `timeout_ms` is for waiting, not for reading: a first look takes one call a table.
    """

    def __init__(self, reader: MetaReader, clock: Clock, timeout_ms: int = TIMEOUT_MS) -> None:
        self._reader, self._clock, self._timeout_ms = reader, clock, timeout_ms
        self._missed_ms: dict[SchemaVersion, int] = {}

    def read(self, at_least: TimeStamp, after: SchemaHistory | None = None) -> SchemaHistory:
        """The history of `after` continued, or a new one that begins now.

        `at_least` is a timestamp handed out before this call; the history ends there or later. A
        new one begins there too, so then it is not below the newest schema change.

        Raises:
            NotCaughtUpError: until the timeout, a DDL transaction kept its locks, or, at the
            beginning, the server's tables stayed behind the keys.
            SchemaConflictError: `after` is not of this cluster.
            UnsupportedError: the cluster was restored as a whole, which no binlog tells.
            SchemaFileError: a key holds something else than it should.
            ServiceUnavailableError, SchemaSourceError: as the reader says.
        """
        deadline_ms = self._clock.boottime_ms() + self._timeout_ms
        while True:
            look = _Look(self._reader, at_least, self._may_wait)
            history = look.continue_from(after) if after else look.begin()
            if history is not None and history.end_ts >= at_least:
                return history
            if self._clock.boottime_ms() >= deadline_ms:
                raise NotCaughtUpError(history.end_ts if history else 0, at_least)
            self._clock.sleep_ms(_RETRY_MS)

    def _may_wait(self, version: SchemaVersion) -> bool:
        """Whether a job that ended with this version may still turn up among the finished ones.

        TiDB puts it there some moments after the version. It may also never do so.
        """
        now_ms = self._clock.boottime_ms()
        return now_ms < self._missed_ms.setdefault(version, now_ms) + _JOB_WAIT_MS

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        """Whether a transaction which has committed wrote a key.

        Returns:
            None where it is not known: TiKV has no such write, and may have collected it.

        Raises:
            ServiceUnavailableError, SchemaSourceError: as the reader says.
        """
        found = self._reader.read_key(key)
        if found.of(start_ts) is not None or found.locked_ts == start_ts:
            return True
        return None if self._may_be_collected(start_ts) else False

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        """Whether a record was there at `ts`, which is not above what the cluster has handed out.

        Returns:
            None where it is not known: a transaction that began before has left its lock until the
            timeout, or nothing is left from then and garbage may have been collected since.

        Raises:
            ServiceUnavailableError, SchemaSourceError: as the reader says.
        """
        deadline_ms = self._clock.boottime_ms() + self._timeout_ms
        while (found := self._reader.read_key(key)).locked_ts is not None and found.locked_ts < ts:
            if self._clock.boottime_ms() >= deadline_ms:
                return None
            self._clock.sleep_ms(_RETRY_MS)
        if (write := found.at(ts)) is not None:
            return write.value is not None
        return None if self._may_be_collected(ts) else False

    def _may_be_collected(self, ts: TimeStamp) -> bool:
        """Whether versions from `ts` on may be gone as garbage."""
        age_ms = self._clock.wall_ms() - physical_ms(ts)
        return age_ms > _GC_LIFE_MS_MIN - _CLOCKS_DIFFER_MS

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome:
        """How a transaction ended, as TiKV knows it by the transaction's primary key.

        Raises:
            ServiceUnavailableError, SchemaSourceError: as the reader says.
        """
        return self._reader.read_key(primary).outcome(start_ts)


class _Look:
    """One look at a cluster's keys, each of which is read once."""

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
        """Up to where nothing has happened but what the keys that were read show."""
        return min(self._wanted_ts, self._locked_ts)

    def begin(self) -> SchemaHistory | None:
        """All tables as of one moment; None if that cannot be told now."""
        listed = self._reader.list_databases()
        newest = next(self._diffs(TimeStamp(0), self._newest.version), None)
        if not self._shows_newest(listed):
            return None
        if self._reader.read_key(SCHEMA_VERSION_KEY) != self._key(SCHEMA_VERSION_KEY):
            return None
        # What was listed lacks the tables that the newest change has dropped.
        oldest_ts = max(self._newest.ts, newest.commit_ts if newest else TimeStamp(0))
        self._wanted_ts = max(self._wanted_ts, oldest_ts)
        # TiDB may list a table twice.
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
        """`history` and what came after it."""
        self._check_same_cluster(history)
        known = history.versions[-1].version if history.versions else SchemaVersion(0)
        diffs = list(self._diffs(history.end_ts, known))[::-1]
        jobs = FinishedJobs(
            self._reader, min([known, *(SchemaVersion(d.version - 1) for d in diffs)])
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
        # A version that is lost counts from its tables on, which is where it begins to matter.
        raised = {d.version: d.commit_ts for d in diffs} | {v.version: v.ts for v in self._versions}
        versions = [SchemaVersionAt(ts, v) for v, ts in raised.items() if v > known]
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
        found = self._keys.get(key)
        if found is None:
            found = self._keys[key] = self._reader.read_key(key)
            if found.locked_ts is not None:
                self._locked_ts = min(self._locked_ts, found.locked_ts)
        return found

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

    def _diffs(self, above_ts: TimeStamp, known: SchemaVersion) -> Iterator[SchemaDiff]:
        """What was committed above a timestamp, newest first.

        Known versions may be among it, whose transactions have been committed since.

        Raises:
            SchemaFileError: so many versions without a SchemaDiff that the newest cannot be one.
        """
        holes = 0
        for version in range(self._newest.version, max(known - _MAX_HOLES, 0), -1):
            diff = self._diff(SchemaVersion(version))
            holes = 0 if diff is not None else holes + 1
            if version > known and holes > _MAX_HOLES:
                reason = f"says {self._newest.version}, and there is nothing down to {version}"
                raise SchemaFileError("SchemaVersionKey", reason)
            if diff is not None:
                if diff.commit_ts <= above_ts:
                    return
                yield diff

    def _changes(
        self, diff: SchemaDiff, before: Sequence[TableEvent], jobs: FinishedJobs
    ) -> tuple[list[TableEvent], list[LostState]]:
        """(what one schema version changed, what of it is lost), after all of `before`."""
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
                # Not even what was there before is left.
                job = jobs.at(diff.version)
                if job is None:
                    lost.append(LostState(diff.commit_ts, name, table_id, diff.action))
                elif (result := job_result(job, diff, place, name)) is not None:
                    changed.append(result)
        return changed, lost

    def _with_sessions(
        self, event: TableEvent, diff: SchemaDiff, before: Sequence[TableEvent], jobs: FinishedJobs
    ) -> TableEvent:
        """An event with the session whose MODIFY COLUMN ends with it; until TiDB tells, none."""
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
        """Where a schema version may have changed tables, after all of `before`."""
        places = diff.places | diff.left
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
        """A database's name, which never changes; None if nothing is left that says it."""
        for write in self._key(database_key(database_id)).writes:
            if write.value is not None:
                try:
                    return text(load(write.value)["db_name"]["O"])
                except SHAPE_ERRORS as error:
                    reason = f"not a DBInfo: {brief(error)}"
                    raise SchemaFileError(f"DB:{database_id}", reason) from error
        return jobs.database_name(database_id)

    def _shows_newest(self, listed: Sequence[ListedDatabase]) -> bool:
        """Whether a server's tables show the newest schema change."""
        tables = {
            (db.id, t.id): t.update_ts if t.is_public else None for db in listed for t in db.tables
        }
        databases = {db.id for db in listed}
        for diff in self._diffs(TimeStamp(0), self._newest.version):
            if diff.action == Action.DROP_DATABASE:
                return diff.database_id not in databases
            if diff.action in (Action.CREATE_DATABASE, Action.RECOVER_DATABASE):
                return diff.database_id in databases
            if places := diff.places | diff.left:
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
    """When the table at a place was changed last, None if it is not there to be used."""
    value = key.writes[-1].value if key.writes else None
    if value is None:
        return None
    try:
        info = load(value)
        return TimeStamp(info["update_timestamp"]) if info["state"] == STATE_PUBLIC else None
    except SHAPE_ERRORS as error:
        reason = f"not a TableInfo: {brief(error)}"
        raise SchemaFileError(f"Table:{place[1]}", reason) from error
