"""A client of the etcd in PD, over its JSON gateway: keys with leases, as import tools set them."""

import base64
import json
import urllib.request
from typing import Any

_TIMEOUT_S = 30


class Etcd:
    """Keys of the etcd at a client address of PD."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/v3"

    def register(self, key: str, ttl_s: int = 600) -> tuple[int, int]:
        """Set a key without a value, with a lease; return the lease and the revision of the key."""
        lease = int(self._call("lease/grant", TTL=ttl_s)["ID"])
        header = self._call("kv/put", key=_text(key), lease=lease)["header"]
        return lease, int(header["revision"])

    def revoke(self, lease: int) -> None:
        """End a lease, and with it its key."""
        self._call("lease/revoke", ID=lease)

    def compact(self) -> None:
        """Forget all changes up to now."""
        revision = self._call("kv/range", key=_text("/"))["header"]["revision"]
        self._call("kv/compaction", revision=revision, physical=True)

    def _call(self, path: str, **body: object) -> Any:
        request = urllib.request.Request(f"{self._url}/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return json.load(response)


def _text(key: str) -> str:
    return base64.b64encode(key.encode()).decode()
