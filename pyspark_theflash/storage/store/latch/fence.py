"""The newest fencing token, and the latches that exclude others at that token.

A store may have thousands of read latches, which exclude nothing. So that they need not be read
to grant a latch, a record has the ids of those that exclude others:

    fence  "token"        the newest token
           "excluding"    [token, [id, ...]], written with each token and at each release

If the two tokens differ, an earlier version of the program has granted a latch since; if there is
no latch with a noted id, it was removed by something else than its release. In both cases all
latches are read, which also shows whether one is missing because of damage.
"""

import json
from collections.abc import Iterable
from typing import Final

from pyspark_theflash.base.types import FencingToken
from pyspark_theflash.storage.store.latch.latch import Latch
from pyspark_theflash.storage.store.transient import FENCE_KIND, LATCH_KIND, TransientRecords
from pyspark_theflash.tidb.codec.document import load, shaped, text, uint64

_NEWEST: Final = "token"
_EXCLUDING: Final = "excluding"


def advance(rows: TransientRecords, excluding_ids: Iterable[str]) -> FencingToken:
    """Return a new token, at which these latches exclude others. Raises `CorruptionError`."""
    token = FencingToken(_newest(rows) + 1)
    rows.put(FENCE_KIND, _NEWEST, str(token).encode())
    _note(rows, token, excluding_ids)
    return token


def excluding(rows: TransientRecords) -> list[Latch]:
    """Return the latches that exclude others, and ended ones that were not removed.

    Raises:
        CorruptionError: A latch is damaged or missing.
    """
    latches = []
    noted = _noted(rows)
    for id in noted or ():
        latch = rows.load(LATCH_KIND, id, Latch.from_body)
        if latch is None:
            noted = None
            break
        latches.append(latch)
    if noted is None:
        latches = rows.load_all(LATCH_KIND, Latch.from_body)
    return [latch for latch in latches if latch.excludes]


def forget(rows: TransientRecords, id: str) -> None:
    """Note that a latch was released."""
    noted = _noted(rows)
    if noted is not None and id in noted:
        _note(rows, _newest(rows), [other for other in noted if other != id])


def _note(rows: TransientRecords, token: FencingToken, ids: Iterable[str]) -> None:
    rows.put(FENCE_KIND, _EXCLUDING, json.dumps([token, list(ids)]).encode())


def _newest(rows: TransientRecords) -> FencingToken:
    return rows.load(FENCE_KIND, _NEWEST, _token_of) or FencingToken(0)


def _noted(rows: TransientRecords) -> list[str] | None:
    """Return the noted ids; None if there may be others."""
    token, ids = rows.load(FENCE_KIND, _EXCLUDING, _ids_of) or (None, [])
    return ids if token == _newest(rows) else None


def _token_of(_: str, body: bytes) -> FencingToken:
    with shaped("fencing token"):
        return FencingToken(uint64(load(body)))


def _ids_of(_: str, body: bytes) -> tuple[FencingToken, list[str]]:
    with shaped("ids of latches"):
        token, ids = load(body)
        return FencingToken(uint64(token)), [text(id) for id in ids]
