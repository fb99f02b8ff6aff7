"""Requests of a change feed to regions, and the streams that they are sent in.

Requests of EventFeedV2 are distinguished by request ids. The id is shared by requests to different
regions, so that TiKV reports their progress together, and not used again in a region while events
of an earlier request may be under way. EventFeed (before TiKV 7.5) has one request per region and
stream, and none of them can be ended, so further requests to a region use further streams.
"""

from dataclasses import dataclass, field

from pyspark_theflash.cluster.located import LocatedRegion
from pyspark_theflash.replication.cdc.matcher import Matcher
from pyspark_theflash.replication.cdc.spans import SpanLock
from pyspark_theflash.replication.cdc.streams import Stream


@dataclass(slots=True, eq=False)
class RegionRequest:
    """A request to a region. `owner` is its number among all requests of the feed.

    `heard_ms` is when something about the region was received, `advanced_ms` when its progress
    rose, in this request or the ones before it.
    """

    owner: int
    region: LocatedRegion
    request_id: int
    link: "StoreLink"
    lock: SpanLock
    matcher: Matcher
    heard_ms: int
    advanced_ms: int
    has_progress: bool = False
    """Whether the region has reported its progress in this request."""


@dataclass(slots=True, eq=False)
class StoreLink:
    """A stream and its requests, by region and request id.

    The value of a request that has ended, but may still send events, is None.
    """

    stream: Stream
    requests: dict[tuple[int, int], RegionRequest | None] = field(default_factory=dict)
    used_ms: int = 0

    def free_id(self, region_id: int) -> int | None:
        """Return an id for a request to a region; None if there is none."""
        if not self.stream.is_multiplexed:
            return None if (region_id, 0) in self.requests else 0
        request_id = 1
        while (region_id, request_id) in self.requests:
            request_id += 1
        return request_id

    def live(self) -> list[RegionRequest]:
        return [each for each in list(self.requests.values()) if each is not None]
