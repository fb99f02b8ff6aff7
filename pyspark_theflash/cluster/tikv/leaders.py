"""The `RegionLeaders` of a learner read (`tikv/learner_read.py`), over the network."""

from collections.abc import Sequence

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.tikv.client import TiKVClient


class TiKVLeaders:
    """A `RegionLeaders` that calls PD and TiKV. Methods raise the errors of `TiKVClient`."""

    def __init__(self, client: TiKVClient) -> None:
        self._client = client

    def cover(
        self, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> Sequence[tuple[LocatedRegion, Sequence[RawKeyRange]]]:
        return self._client.regions.cover(ranges, deadline)

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> int | Lock | None:
        read_index = self._client.read_index(region, ranges, snapshot_ts, deadline).value
        if read_index is None:
            return None
        return read_index.index if read_index.locked is None else read_index.locked
