"""Several pumps' binlogs merged into one source.

TiDB chooses a pump for each transaction, and the commit may go to another pump than the prewrite.
The pairing (`replication.pairing.pairing`) matches them across pumps. Each entity carries the
number of its stream, because only the order within one pump shows up to which timestamp that pump's
binlog is complete.

Order of reading
    The part with the lowest newest commit_ts is read next, which keeps the number of pending
    transactions small. A part without new messages is skipped until the next poll; the others may
    run ahead of it as long as the buffer for pending transactions is not full.

Failing parts
    While following, the other parts are read on; the failing part holds back `resolved_ts`, and the
    position records the error. If the parts are read only once, any failure is raised, because the
    messages read count as complete.

Position
    Names, positions and newest commit_ts of all parts, as JSON. A run that continues there must
    name all of the parts; otherwise transactions would be missing (`check_named`).
"""

import heapq
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Final

from pyspark_theflash.base.errors import OptionError, TheFlashError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.event import Entity, EntitySource
from pyspark_theflash.tidb.codec.document import load, shaped, text, uint64

_log = logging.getLogger(__name__)
_MARK: Final = "["
_ZERO: Final = TimeStamp(0)


@dataclass(frozen=True, slots=True)
class PartPosition:
    """Read position of one part. `trouble` is the error that it failed with last, or ""."""

    name: str
    position: str | None = None
    seen_ts: TimeStamp = _ZERO
    trouble: str = ""


def is_merged(position: str | None) -> bool:
    """Return whether a position is one of merged sources."""
    return position is not None and position.startswith(_MARK)


def places_of(position: str | None) -> list[PartPosition]:
    """Decode a position of merged sources; [] for the position of a single source.

    Raises:
        CodecError: The position begins like one of merged sources but cannot be decoded.
    """
    if position is None or not is_merged(position):
        return []
    with shaped("position of several sources"):
        return [
            PartPosition(
                text(name),
                None if at is None else text(at),
                TimeStamp(uint64(seen_ts)),
                text(trouble),
            )
            for name, at, seen_ts, trouble in load(position)
        ]


def check_named(position: str | None, names: Collection[str], gone: Collection[str]) -> None:
    """Raise `OptionError` unless each source in `position` is in `names` or in `gone`."""
    for place in places_of(position):
        if place.name not in names and place.name not in gone:
            reason = (
                f"{place.name} was followed before and is missing now: add it to the sources, or "
                f"add gone:{place.name} if all of its transactions are applied"
            )
            raise OptionError("source", reason)


class MergedSource:
    """Merged source for one poll. An entity's `stream` is the index of its part."""

    def __init__(self, parts: Mapping[str, EntitySource], check: Callable[[], None]) -> None:
        """Merge `parts`, sources by name; `check` raises if another source is not among them."""
        self._parts, self._check = parts, check
        self._places = [PartPosition(name) for name in parts]
        self.is_full: Callable[[], bool] | None = None
        """While following: returns whether no part may run further ahead of the others."""

    @property
    def position(self) -> str | None:
        """Position after the last entity of each part.

        The writer reads this before it publishes, so `check` is called here: a pump that does not
        exist at this time has no transaction that commits below those already read.
        """
        self._check()
        return json.dumps([astuple(place) for place in self._places])

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """Yield the entities after position `after`, each part's in its order.

        Raises:
            TheFlashError: All parts failed, or one with an error that is not retryable; any
                failure if the parts are read only once.
        """
        is_followed = self.is_full is not None
        if not is_followed:
            self._check()
        # A position of a single source is ignored and all parts are read from the beginning: the
        # ledger recognises the transactions that are applied.
        previous = {place.name: place for place in places_of(after)}
        self._places = [replace(previous.get(n, PartPosition(n)), trouble="") for n in self._parts]
        parts = list(self._parts.values())
        streams = [
            part.entities(place.position) for part, place in zip(parts, self._places, strict=True)
        ]
        lowest = [(place.seen_ts, number) for number, place in enumerate(self._places)]
        heapq.heapify(lowest)
        failures: list[TheFlashError] = []
        while lowest:
            seen_ts, number = heapq.heappop(lowest)
            is_ahead = seen_ts > min(place.seen_ts for place in self._places)
            if is_ahead and self.is_full is not None and self.is_full():
                return
            try:
                entity = next(streams[number], None)
            except TheFlashError as error:
                if not (error.retryable and is_followed):
                    raise
                failures.append(error)
                place = self._places[number]
                _log.warning("cannot read source %s: %s", place.name, error)
                self._places[number] = replace(place, trouble=str(error))
                if len(failures) == len(parts):
                    raise
                continue
            if entity is not None:
                seen_ts = max(seen_ts, entity.commit_ts)
                self._places[number] = PartPosition(
                    self._places[number].name, parts[number].position, seen_ts
                )
                heapq.heappush(lowest, (seen_ts, number))
                yield replace(entity, stream=number)
        if not is_followed:
            self._check()
