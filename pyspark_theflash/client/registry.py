"""The pumps of a cluster, as PD's etcd knows them, which is where TiDB looks for them.

    /tidb-binlog/v1/pumps/NODE_ID    {"nodeId": ..., "host": "HOST:PORT", "state": "online", ...}

As tidb-binlog keeps them: without a lease, so that a pump that died stays `online`, and TiDB goes
on trying to reach it instead of forgetting it with its open transactions.
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pyspark_theflash.client.pd import PDClient
from pyspark_theflash.codec.document import SHAPE_ERRORS, load, text
from pyspark_theflash.errors import OtherPumpError, PDRefusedError
from pyspark_theflash.types import TimeStamp

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
        for key, value in sorted(self.pd.list_keys(PUMPS, _PUMPS_MAX).items()):
            node_id = key.removeprefix(PUMPS)
            state = _state(key, value)
            if node_id != self.node_id and state != PumpState.OFFLINE.value:
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


def _state(key: str, value: bytes) -> str:
    try:
        return text(load(value)["state"])
    except SHAPE_ERRORS as error:
        raise PDRefusedError("etcd", f"{key[:200]} is not the status of a pump") from error
