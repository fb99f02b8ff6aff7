"""Forged tickets and handles, and those of other stores, callers and times."""

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
from pyarrow import flight

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.service.api.seal import Purpose, Sealer
from pyspark_theflash.service.wire.message import Moment, ScanRequest, SnapshotRequest
from pyspark_theflash.service.wire.method import METHODS, SCAN, Role
from tests.attack.harness import BreachError, Target, attack, breach_if
from tests.attack.servers import ATTACKER

TIMEOUT_MS = 20_000
_REJECTED = (TheFlashError, flight.FlightError, pa.ArrowException)


def forgeries(ticket: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield bit flips, truncations, extensions and seals with other keys."""
    for _ in range(count // 2):
        changed = bytearray(ticket)
        changed[rng.randrange(len(ticket))] ^= 1 << rng.randrange(8)
        yield bytes(changed)
    for _ in range(count // 4):
        yield ticket[: rng.randrange(len(ticket))]
    for _ in range(count // 8):
        yield ticket + rng.randbytes(rng.randint(1, 40))
    sealer = Sealer(rng.randbytes(32))
    body = ticket[2:-32].decode()
    for old, new in (("shop.items", "shop.small"), ("[", "[["), (body, "[]"), ("", "")):
        yield sealer.seal(Purpose.TICKET, body.replace(old, new))
        yield ticket[:2] + body.replace(old, new, 1).encode() + ticket[-32:] + b"\x00"
    yield bytes([ticket[0], Purpose.HANDLE]) + ticket[2:]
    yield from (b"", b"\x00" * 64, rng.randbytes(200))


def _read(transport: Any, ticket: bytes) -> int:
    with transport.scan(SCAN, ScanRequest(ticket), TIMEOUT_MS) as rows:
        return sum(batch.num_rows for batch in rows)


@attack("tcp", "unix", "mtls", over=["frames", "flight"])
def forged_tickets(target: Target) -> str:
    """Change a valid ticket in every way."""
    rng = random.Random(14)
    count = 60 if target.is_short else 1163
    who = ATTACKER if target.server.has_tokens else None
    with target.server.client(who) as api:
        plan = api.plan("shop.items", ["id"])
        ticket = plan.splits[0].ticket
        with closing(target.server.transport(target.protocol, who)) as transport:
            forged = list(forgeries(ticket, rng, count))
            for each in forged:
                _rejected(lambda t=each: _read(transport, t), f"the ticket {each[:40]!r}")
            breach_if(not _read(transport, ticket), "the ticket itself returns no rows")
    return f"{len(forged)} forgeries"


@attack("tcp", over=["frames"])
def tickets_of_another_store(target: Target) -> str:
    """Use the tickets of a store with the same content."""
    from tests.attack.servers import make_store

    with target.server.client(ATTACKER) as api:
        from pyspark_theflash.service.client.theflash import connect

        with connect(make_store(target.folder / "other")) as other:
            foreign = other.plan("shop.items", ["id"])
            for split in foreign.splits:
                _rejected(lambda ticket=split.ticket: api.scan(ticket).read_all())
            _rejected(lambda: api.release(foreign.snapshot))
    return f"{len(foreign.splits)} tickets"


@attack("tcp", over=["frames"])
def tickets_of_a_released_snapshot(target: Target) -> str:
    """Use a ticket after its snapshot has ended."""
    with target.server.client(ATTACKER) as api:
        plan = api.plan("shop.items", ["id"])
        api.release(plan.snapshot)
        _rejected(lambda: api.scan(plan.splits[0].ticket).read_all())
        _rejected(lambda: api.snapshot(Moment(handle=plan.snapshot.handle)))
    return "2 calls"


@attack("tcp", over=["frames"])
def handles_of_another_caller(target: Target) -> str:
    """Renew and release the snapshot of another token."""
    with target.server.client(Role.READ) as owner, target.server.client(ATTACKER) as api:
        snapshot = owner.snapshot()
        for name in ("RenewSnapshot", "ReleaseSnapshot"):
            _rejected(
                lambda name=name: api.call(METHODS[name], SnapshotRequest(snapshot.handle)), name
            )
        _rejected(lambda: api.plan("shop.small", moment=Moment(handle=snapshot.handle)), "PlanScan")
        owner.release(snapshot)
    return "3 calls"


def _rejected(act: Any, name: str = "a call") -> None:
    try:
        act()
    except _REJECTED:
        return
    raise BreachError(f"{name} was answered")
