"""Tables that a writer sets aside, recorded with its next publication (`storage.store.aside`)."""

import logging
from collections.abc import Set

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.storage.store.aside import ASIDE_KIND, Aside, asides_of
from pyspark_theflash.storage.store.manifest import ManifestChange, Record

_log = logging.getLogger(__name__)


class AsideTables:
    """Physical tables set aside, and the records of those that are not published yet."""

    def __init__(self, engine: WriterEngine) -> None:
        self._asides = asides_of(engine.read([ASIDE_KIND]))
        self._new: list[Record] = []

    def first(self, ids: Set[PhysicalTableID]) -> Aside | None:
        """Return one of the physical tables that is set aside, or None."""
        return next((self._asides[i] for i in sorted(ids) if i in self._asides), None)

    def add(self, table: str, ids: Set[PhysicalTableID], ts: TimeStamp, reason: str) -> None:
        """Set physical tables of `table` aside from `ts` on."""
        new = [i for i in sorted(ids) if i not in self._asides or self._asides[i].ts > ts]
        for physical_id in new:
            aside = Aside(physical_id, ts, table, reason)
            self._asides[physical_id] = aside
            self._new.append(aside.to_record())
        if new:
            _log.warning("%s is set aside from %d on: %s", table, ts, reason)

    def end(self, ids: Set[PhysicalTableID]) -> list[tuple[str, str]]:
        """Forget physical tables that were loaded again; return the records to delete."""
        ended = [self._asides.pop(i).to_record() for i in sorted(ids) if i in self._asides]
        self._new = [record for record in self._new if record not in ended]
        return [(record.kind, record.key) for record in ended]

    def added_to(self, change: ManifestChange) -> ManifestChange:
        """Return a change with the new records."""
        new = {(record.kind, record.key) for record in self._new}
        deletes = [key for key in change.deletes if key not in new]
        return ManifestChange([*change.puts, *self._new], deletes)

    def published(self) -> None:
        """Note that the new records are durable."""
        self._new.clear()
