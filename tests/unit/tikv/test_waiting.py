"""Buffered commands are applied together, before the state is read."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.types import RegionID
from pyspark_theflash.tikv import region_store as store_module
from pyspark_theflash.tikv.request import Requests
from tests.support.kv_table import HISTORY, TABLE, commit
from tests.support.learning import Learning
from tests.support.raft_tikv import FakeRaftCluster


@pytest.fixture(params=["memory", "magic"])
def learning(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Learning]:
    folder = tmp_path / "store" if request.param == "magic" else None
    made = Learning(FakeRaftCluster(), HISTORY, folder)
    yield made
    made.close()


def texts(learning: Learning, ts: int) -> dict[int, str]:
    return {handle: row[1] for handle, row in learning.rows(TABLE, ts).items()}


def send_apart(learning: Learning) -> None:
    """Send all commands since the last call, one by one."""
    for _, _, entry in learning.tikv.log[learning.sent :]:
        learning.send([entry])
    learning.sent = len(learning.tikv.log)


def test_lone_commands_wait_until_somebody_asks(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards all of them are decoded together, as in one batch."""
    decoded: list[int] = []
    decode = store_module.decode_pieces

    def counted(messages: Sequence[bytes]) -> list[Requests]:
        decoded.append(len(messages))
        return decode(messages)

    monkeypatch.setattr(store_module, "decode_pieces", counted)
    asks: list[Callable[[], object]] = [
        lambda: learning.learner.store.regions(),
        lambda: learning.learner.store.cache,
        lambda: learning.learner.store.unflushed(),
        lambda: learning.learner.store.region(RegionID(1)),
        lambda: learning.learner.store.wait_applied(
            RegionID(1), learning.tikv.regions[1].index, Deadline(SystemClock(), 1000)
        ),
        lambda: learning.learner.flush(),
    ]
    for number, ask in enumerate(asks):
        for handle in range(5):
            commit(learning.tikv, handle, 10 + 10 * number, "v")
        send_apart(learning)
        assert decoded == []
        assert learning.learner.store.is_changed
        ask()
        assert len(decoded) == 1
        assert decoded.pop() >= 5
        assert texts(learning, 10 + 10 * number) == dict.fromkeys(range(5), "v")
        decoded.clear()


def test_many_lone_commands_are_applied_meanwhile(learning: Learning) -> None:
    for handle in range(2000):
        commit(learning.tikv, handle, 10, str(handle))
    send_apart(learning)
    assert len(learning.learner.store._waiting) < 1000
    assert texts(learning, 20) == {handle: str(handle) for handle in range(2000)}
