"""Registration of pumps in PD's etcd, where TiDB discovers them.

    /tidb-binlog/v1/pumps/NODE_ID    {"nodeId": ..., "host": "HOST:PORT", "state": "online", ...}

The entries have no lease, as in tidb-binlog: a pump that died stays `online`, so TiDB keeps trying
to reach it instead of dropping it together with its open transactions.
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
    """State of a pump; the values are tidb-binlog's. TiDB writes to ONLINE pumps only."""

    ONLINE = "online"
    PAUSING = "pausing"
    PAUSED = "paused"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class PumpRegistry:
    """Registry entry of one pump. Every TiDB of the cluster must be able to reach `host`."""

    pd: PDClient
    node_id: str
    host: str

    def check_alone(self) -> None:
        """Raise `OtherPumpError` if another pump of the cluster is not offline.

        TiDB distributes transactions over all pumps. Each would have only part of them, and its
        heartbeats would be wrong for the rest.
        """
        for node_id, _, state in _pumps(self.pd):
            if node_id != self.node_id:
                raise OtherPumpError(node_id, state)

    def register(self, state: PumpState, *, now_ts: TimeStamp, max_commit_ts: TimeStamp) -> None:
        """Write the entry with this state."""
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
    """Raise `OtherPumpError` if a pump that is not offline is not among `hosts` (HOST:PORT)."""
    for _, host, state in _pumps(pd):
        if host not in hosts:
            raise OtherPumpError(host, state)


def _pumps(pd: PDClient) -> Iterator[tuple[str, str, str]]:
    """Yield (node id, HOST:PORT, state) of each pump that is not offline."""
    for key, value in sorted(pd.list_keys(PUMPS, _PUMPS_MAX).items()):
        try:
            status = load(value)
            host, state = text(status.get("host", "")), text(status["state"])
        except SHAPE_ERRORS as error:
            raise PDRefusedError("etcd", f"value of {key[:200]} is not a pump's status") from error
        if state != PumpState.OFFLINE.value:
            yield key.removeprefix(PUMPS), host, state
