"""The pumps of a cluster, as PD's etcd knows them, which is where TiDB looks for them.

    /tidb-binlog/v1/pumps/NODE_ID    {"nodeId": ..., "host": "HOST:PORT", "state": "online", ...}

As tidb-binlog keeps them: without a lease, so that a pump that died stays `online`, and TiDB goes
on trying to reach it instead of forgetting it with its open transactions.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pyspark_theflash.base.errors import OtherPumpError, PDRefusedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, load, text

PUMPS: Final = "/tidb-binlog/v1/pumps/"
_PUMPS_MAX: Final = 1000


class PumpState(Enum):
    """What a pump is registered as; the value is tidb-binlog's word. TiDB writes to ONLINE ones."""

    ONLINE = "online"
    PAUSING = "pausing"
    PAUSED = "paused"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class PumpRegistry:
    """One pump's entry. `host` is the HOST:PORT that every TiDB of the cluster reaches it under."""

    pd: PDClient
    node_id: str
    host: str

    def check_alone(self) -> None:
        """Raise `OtherPumpError` if there is another pump that has, or may get, a part of it all.

        Two pumps are written to by turns. Each has half of the transactions then, and heartbeats
        that know nothing of the other half.
        """
        for node_id, _, state in _pumps(self.pd):
            if node_id != self.node_id:
                raise OtherPumpError(node_id, state)

    def register(self, state: PumpState, *, now_ts: TimeStamp, max_commit_ts: TimeStamp) -> None:
        """Write the entry."""
        status = {
            "nodeId": self.node_id,
            "host": self.host,
            "state": state.value,
            "isAlive": state is PumpState.ONLINE,
            "score": 0,
            "label": None,
            "maxCommitTS": max_commit_ts,
            "updateTS": now_ts,
        }
        self.pd.put_key(f"{PUMPS}{self.node_id}", json.dumps(status).encode())


def check_followed(pd: PDClient, hosts: Collection[str]) -> None:
    """Raise `OtherPumpError` if there is a pump at another HOST:PORT than these."""
    for _, host, state in _pumps(pd):
        if host not in hosts:
            raise OtherPumpError(host, state)


def _pumps(pd: PDClient) -> Iterator[tuple[str, str, str]]:
    """(node id, HOST:PORT, state) of every pump that is not offline."""
    for key, value in sorted(pd.list_keys(PUMPS, _PUMPS_MAX).items()):
        try:
            status = load(value)
            host, state = text(status.get("host", "")), text(status["state"])
        except SHAPE_ERRORS as error:
            raise PDRefusedError("etcd", f"{key[:200]} is not the status of a pump") from error
        if state != PumpState.OFFLINE.value:
            yield key.removeprefix(PUMPS), host, state
