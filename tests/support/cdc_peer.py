"""Orders to the change feed of a `Peer`: errors, delays and cuts on demand.

    with Peer(folder, cdc="v8.5") as peer:
        control = CdcControl(peer.cdc_control_url)
        control.refuse(Error(server_is_busy={"reason": "test"}), region_id=5, times=2)
        with control.held("resolved"):
            ...

Regions are given by id; 0 means all.
"""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from typing import Literal

from pyspark_theflash.tidb.protocol._generated.kvproto.cdcpb_pb2 import Error, Event

_TIMEOUT_S = 30

Holdable = Literal["resolved", "send", "snapshot", "scan"]
"""Parts of the stream that can be stopped.

resolved  no resolved_ts is sent
send      nothing is sent on any stream, as by a store that hangs
snapshot  incremental scans wait before they read, while live rows are sent
scan      incremental scans wait after they have read, so that live rows overtake theirs
"""


class CdcControl:
    """A client of the orders of one store."""

    def __init__(self, url: str) -> None:
        self._url = url

    def feeds(self) -> list[dict[str, int]]:
        """Return the subscribed regions, each with `region`, `request` and `resolved_ts`.

        `scanned`: its incremental scan has read. `ready`: it has sent INITIALIZED.
        """
        with urllib.request.urlopen(f"{self._url}/feeds", timeout=_TIMEOUT_S) as response:
            feeds: list[dict[str, int]] = json.load(response)
        return feeds

    @contextlib.contextmanager
    def held(self, what: Holdable) -> Iterator[None]:
        """Stop something while the context is open."""
        self._order(f"hold?what={what}")
        try:
            yield
        finally:
            self._order(f"release?what={what}")

    @contextlib.contextmanager
    def importing(self, table_id: int) -> Iterator[None]:
        """Write rows of a physical table as a physical import does while the context is open.

        The feed does not announce them. The scans of v6.5 send them, those of v8.5 do not.
        """
        self._order(f"import?table={table_id}")
        try:
            yield
        finally:
            self._order(f"imported?table={table_id}")

    def send(self, event: Event, region_id: int = 0) -> int:
        """Send an event on the feeds of a region; return how many there are.

        An error ends them. A `resolved_ts` is sent in the form that the stream has otherwise.
        """
        return self._order(f"send?region={region_id}", event.SerializeToString())

    def fail(self, error: Error, region_id: int = 0) -> int:
        """End the feeds of a region with an error; return how many there were."""
        return self.send(Event(error=error), region_id)

    def refuse(self, error: Error, region_id: int = 0, times: int = 1) -> None:
        """Reject the next registrations of a region."""
        self._order(f"refuse?region={region_id}&times={times}", error.SerializeToString())

    def cut(self, code: int = 14) -> int:
        """End all streams with a gRPC status code; return how many there were."""
        return self._order(f"cut?code={code}")

    def _order(self, order: str, body: bytes = b"") -> int:
        request = urllib.request.Request(f"{self._url}/{order}", data=body, method="POST")
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return int(response.read())
