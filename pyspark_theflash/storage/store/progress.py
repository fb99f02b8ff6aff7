"""Progress of each feed of a store, committed together with the rows."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store.feed import MAIN, SIDE, FeedRecords
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import boolean, load, shaped, text, uint64

PROGRESS_KIND: Final = "progress"
FOLLOWING_KIND: Final = "following"
"""A record of this kind is in stores with a feed that `follows`, which need its format."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a feed. `position` is the position in its source where the next writer resumes.

    Invariants: `oldest_ts <= resolved_ts`; the feed's tables can be read from `oldest_ts` to
    `resolved_ts`, both inclusive; neither ever decreases.

    The side feed `follows` the main feed once it has a statement of SQL: every later write of the
    API commits above the main feed's `resolved_ts` as well, which is then a lower bound of its own.
    """

    oldest_ts: TimeStamp
    resolved_ts: TimeStamp
    position: str | None = None
    follows: bool = False

    def to_record(self, feed: FeedRecords = MAIN) -> Record:
        fields = asdict(self)
        if not self.follows:
            del fields["follows"]
        return Record(PROGRESS_KIND, feed.progress_key, json.dumps(fields).encode())

    @classmethod
    def of(cls, view: View, feed: FeedRecords = MAIN) -> "Progress | None":
        """Decode a feed's progress; None before its first publication. Raises `CodecError`."""
        body = view.of_kind(PROGRESS_KIND).get(feed.progress_key)
        if body is None:
            return None
        with shaped(f"{PROGRESS_KIND} record"):
            fields = load(body)
            position = fields.get("position")
            resolved_ts = uint64(fields["resolved_ts"])
            follows = feed is SIDE and boolean(fields.get("follows", False))
            if follows and (main := cls.of(view)) is not None:
                resolved_ts = max(resolved_ts, main.resolved_ts)
            return cls(
                TimeStamp(uint64(fields["oldest_ts"])),
                TimeStamp(resolved_ts),
                None if position is None else text(position),
                follows,
            )


def every_progress(view: View) -> list[Progress]:
    """Return the progress of each feed that has any, the main feed first. Raises `CodecError`."""
    by_feed = (Progress.of(view, feed) for feed in (MAIN, SIDE))
    return [progress for progress in by_feed if progress is not None]


def store_progress(view: View) -> Progress | None:
    """Return the range of timestamps at which the tables of all feeds can be read.

    None before the first publication. `position` is the main feed's. Raises `CodecError`.
    """
    every = every_progress(view)
    if not every:
        return None
    oldest_ts = min(progress.oldest_ts for progress in every)
    resolved_ts = min(progress.resolved_ts for progress in every)
    return Progress(oldest_ts, resolved_ts, every[0].position)
