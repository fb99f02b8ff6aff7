"""Latches of other callers."""

from contextlib import suppress
from typing import Any

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.service.wire.message import AcquireRequest, LatchRequest, WriteRequest
from pyspark_theflash.service.wire.method import METHODS, Role
from tests.attack.harness import BreachError, Target, attack, breach_if
from tests.attack.servers import ATTACKER, OTHER_WRITER
from tests.support.writes import latch

GUESSES = 64


def _answered(act: Any) -> bool:
    with suppress(TheFlashError):
        act()
        return True
    return False


@attack("tcp", over=["frames"])
def ids_of_latches(target: Target) -> str:
    """Read the latches of others, and guess fencing tokens to release them."""
    with target.server.client(Role.READ) as owner, target.server.client(ATTACKER) as api:
        held = owner.acquire_latch(AcquireRequest("read", name="held"))
        with suppress(TheFlashError):
            rows = [
                row
                for batch in api.read(api.plan("shop.small$latches"))
                for row in batch.to_pylist()
            ]
            ids = {str(value) for row in rows for value in row.values()}
            breach_if(held.id in ids, "a reader sees the ids of latches")
        for token in range(GUESSES):
            request = LatchRequest(held.id, token)
            for name in ("ReleaseLatch", "RenewLatch"):
                breach_if(
                    _answered(lambda n=name, r=request: api.call(METHODS[n], r)),
                    f"{name} of another's latch by token {token}",
                )
        owner.release_latch(held)
    return f"{GUESSES} guesses"


@attack("tcp", over=["frames"])
def latches_of_another_writer(target: Target) -> str:
    """Renew, use and release the write latch of another token, whose id and token are known."""
    with target.server.client(Role.WRITE) as owner, target.server.client(OTHER_WRITER) as api:
        held = latch(owner, name="owner")
        request = LatchRequest(held.id, held.token or 0)
        try:
            if _answered(lambda: api.write(WriteRequest((request,), resolved_ts=1 << 30))):
                raise BreachError("a write under another's latch")
            for name in ("RenewLatch", "ReleaseLatch"):
                if _answered(lambda n=name: api.call(METHODS[n], request)):
                    raise BreachError(f"{name} of another's latch")
        finally:
            with suppress(TheFlashError):
                owner.release_latch(held)
    return "3 calls"


@attack("tcp", over=["frames"])
def errors_about_latches(target: Target) -> str:
    """Compare the errors of a wrong id and of a wrong token."""
    with target.server.client(Role.READ) as owner, target.server.client(ATTACKER) as api:
        held = owner.acquire_latch(AcquireRequest("read", name="held"))
        texts = {_text(api, held.id), _text(api, "0" * len(held.id))}
        owner.release_latch(held)
    breach_if(len(texts) != 1, f"errors confirm an id: {texts}")
    return "2 calls"


def _text(api: Any, id_: str) -> str:
    try:
        api.call(METHODS["ReleaseLatch"], LatchRequest(id_, 1 << 40))
    except TheFlashError as error:
        return f"{type(error).__name__}: {str(error).replace(id_, 'ID')}"
    return "answered"
