"""The binlogs of several pumps as one source.

TiDB chooses a pump for each transaction, and its commit may go to another pump than its prewrite.
The pairing (`replication.pairing.pairing`) matches them wherever they come from. It needs to know
which stream an entity is of, because only the order within one pump says how far that pump's binlog
is complete.

Which part is read next
    The one whose newest commit_ts is the lowest, so that little waits for the others. A part that
    has nothing new is left alone until the next poll; the others may run ahead of it as long as
    there is room for what waits.

A part that does not answer
    A writer that follows them reads the others on. The part holds `resolved_ts` meanwhile, and the
    position says what is wrong. Where the parts are read once, any failure is an error: what is
    read counts as all there is.

Position
    The names, positions and newest commit_ts of all parts, as JSON. A run that goes on there must
    name all of them, or the transactions of one would be missing (`check_named`).
"""

import heapq
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Final, Protocol

from pyspark_theflash.base.errors import OptionError, TheFlashError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.event import Entity
from pyspark_theflash.tidb.codec.document import load, shaped, text, uint64

_log = logging.getLogger(__name__)
_MARK: Final = "["
_ZERO: Final = TimeStamp(0)


class Part(Protocol):
    """One of several sources; see `replication.writer.EntitySource`."""

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """What is behind that position."""

    @property
    def position(self) -> str | None:
        """Where to go on."""


@dataclass(frozen=True, slots=True)
class PartPosition:
    """How far one part is read. `trouble` says why nothing comes from it, if there is a reason."""

    name: str
    position: str | None = None
    seen_ts: TimeStamp = _ZERO
    trouble: str = ""


def is_merged(position: str | None) -> bool:
    """Whether a position is one of several sources."""
    return position is not None and position.startswith(_MARK)


def places_of(position: str | None) -> list[PartPosition]:
    """How far each part is read by a position of several; none for any other.

    Raises:
        CodecError: it begins like one and is none.
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
    """Raise `OptionError` unless all sources that were followed are named, or said to be gone."""
    for place in places_of(position):
        if place.name not in names and place.name not in gone:
            reason = (
                f"{place.name} was followed before, and its transactions would be missing: name it "
                f"too, or gone:{place.name} if all that it ever had is applied"
            )
            raise OptionError("source", reason)


class MergedSource:
    """Several sources as one, for one poll. The number of an entity's stream is its part's."""

    def __init__(self, parts: Mapping[str, Part], check: Callable[[], None]) -> None:
        """`parts` by name; `check` raises if there are others that are not followed."""
        self._parts, self._check = parts, check
        self._places = [PartPosition(name) for name in parts]
        self.is_full: Callable[[], bool] | None = None
        """Where they are followed: whether no part may run further ahead of the others."""

    @property
    def position(self) -> str | None:
        """Where to go on, behind the last entity of each part.

        It is asked for before anything that was read is published, so this is where `check` is
        called: a pump that did not exist then has no transaction that commits below what was read.
        """
        self._check()
        return json.dumps([astuple(place) for place in self._places])

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """What is behind the position `after`, each part in its order.

        Raises:
            TheFlashError: all parts fail, or one with an error that trying again does not mend;
            any, if they are not followed but read once.
        """
        is_followed = self.is_full is not None
        if not is_followed:
            self._check()
        # From the beginning, where only one source was followed before: what is applied is known.
        known = {place.name: place for place in places_of(after)}
        self._places = [replace(known.get(n, PartPosition(n)), trouble="") for n in self._parts]
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
                self._note(number, error)
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

    def _note(self, number: int, error: TheFlashError) -> None:
        place = self._places[number]
        _log.warning("%s gives nothing: %s", place.name, error)
        self._places[number] = replace(place, trouble=str(error))
