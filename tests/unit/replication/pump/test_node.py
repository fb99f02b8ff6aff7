import json

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OtherPumpError, PDRefusedError, PDUnavailableError
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.pairing.ledger import TransactionLedger
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pump.node import PumpNode
from pyspark_theflash.replication.pump.server import PumpServer
from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.registry import PUMPS, PumpRegistry, PumpState
from tests.support import binlog_writer
from tests.support.fake_pd import FakePD
from tests.support.pump_client import CLUSTER, INSECURE, PumpWriter

CLOCK = SystemClock()
TSO = 1_700_000_000_000 << 18


@pytest.fixture
def pd():
    with FakePD(CLUSTER) as fake:
        yield fake


@pytest.fixture
def client(pd):
    with PDClient([pd.address], clock=CLOCK, timeout_ms=500) as opened:
        yield opened


@pytest.fixture
def server(spool):
    made = PumpServer(
        spool, "127.0.0.1:0", clock=CLOCK, access=INSECURE, spare_bytes=0, cluster_id=CLUSTER
    )
    made.start()
    yield made
    made.stop(0)


@pytest.fixture
def node(spool, server, client):
    """A node whose rounds are started by the test."""
    registry = PumpRegistry(client, "here:1", server.address)
    return PumpNode(server, spool, client, registry, interval_ms=1_000_000)


def status(pd, node_id="here:1"):
    return json.loads(pd.keys[f"{PUMPS}{node_id}".encode()])


def other_pump(pd, state):
    key = f"{PUMPS}there:2".encode()
    pd.keys[key] = json.dumps({"nodeId": "there:2", "state": state}).encode()


def entities(spool):
    return [(e.kind, e.start_ts, e.commit_ts) for e in spool.source().entities()]


def test_life(pd, spool, server, node):
    node.start()
    assert status(pd) == {
        "nodeId": "here:1",
        "host": server.address,
        "state": "online",
        "isAlive": True,
        "score": 0,
        "label": None,
        "maxCommitTS": 0,
        "updateTS": TSO | 8,
    }
    with PumpWriter(server.address) as writer:
        writer.write(binlog_writer.commit(5, 9))
    node.round()
    assert (status(pd)["state"], status(pd)["maxCommitTS"]) == ("online", 9)
    node.stop(drain_ms=0)
    assert status(pd)["state"] == "online"
    node.check()


@pytest.mark.parametrize("state", [PumpState.PAUSED, PumpState.OFFLINE])
def test_leaving(pd, server, node, monkeypatch, state):
    node.start()
    during = []
    monkeypatch.setattr(server, "stop", lambda _: during.append(status(pd)["state"]))
    node.stop(state, drain_ms=0)
    assert (during, status(pd)["state"]) == (["pausing"], state.value)


def test_heartbeats_come_when_nothing_else_does(spool, node):
    node.round()
    assert entities(spool) == []
    node.round()
    first = entities(spool)
    node.round()
    assert [(kind, start == commit) for kind, start, commit in first] == [(EntityKind.COMMIT, True)]
    assert len(entities(spool)) == 2
    spool.append([binlog_writer.prewrite(1)])
    node.round()
    assert len(entities(spool)) == 3
    node.round()
    assert len(entities(spool)) == 4


def test_heartbeats_without_registration(pd, spool, server, client):
    node = PumpNode(server, spool, client)
    for _ in range(3):
        node.round()
    assert len(entities(spool)) == 2
    assert pd.keys == {}


def test_resolved_ts_goes_on_but_not_past_an_open_transaction(pd, spool, node):
    pairing, position = Pairing(TransactionLedger()), None

    def poll():
        nonlocal position
        source = spool.source()
        for entity in source.entities(position):
            pairing.add(entity)
        position = source.position
        return pairing.resolved_ts

    node.round()
    node.round()
    assert poll() == TSO | pd.clock[1]
    start_ts = TSO | 20
    spool.append([binlog_writer.prewrite(start_ts)])
    pd.clock = (pd.clock[0], 30)
    node.round()
    node.round()
    assert poll() == start_ts
    spool.append([binlog_writer.commit(start_ts, TSO | 25)])
    assert poll() == TSO | pd.clock[1]
    assert [t.commit_ts for t in pairing.take_resolved(pairing.resolved_ts)] == [TSO | 25]


@pytest.mark.parametrize("state", ["online", "pausing", "paused", "closing"])
def test_another_pump(pd, spool, node, state):
    other_pump(pd, state)
    with pytest.raises(OtherPumpError, match=f"pump there:2 is {state}"):
        node.start()
    assert f"{PUMPS}here:1".encode() not in pd.keys


def test_another_pump_that_comes_later(pd, spool, node):
    other_pump(pd, "offline")
    node.start()
    node.round()
    other_pump(pd, "online")
    before = spool.position
    with pytest.raises(OtherPumpError):
        node.round()
    assert spool.position == before


def test_rounds_in_the_background(pd, spool, server, client):
    registry = PumpRegistry(client, "here:1", server.address)
    node = PumpNode(server, spool, client, registry, interval_ms=10)
    node.start()
    pd.failures = [grpc.StatusCode.UNAVAILABLE] * 3
    wait_for(lambda: len(entities(spool)) >= 2)
    node.check()
    other_pump(pd, "online")
    wait_for(lambda: failed(node))
    with pytest.raises(OtherPumpError):
        node.check()
    count = len(entities(spool))
    node.stop(drain_ms=0)
    assert len(entities(spool)) == count


def failed(node):
    try:
        node.check()
    except OtherPumpError:
        return True
    return False


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        CLOCK.sleep_ms(10)
    raise TimeoutError


def test_pd_that_is_gone(pd, server, node):
    node.start()
    pd.stop()
    with pytest.raises(PDUnavailableError):
        node.stop(drain_ms=0)
    with pytest.raises(Exception, match=r"DEADLINE_EXCEEDED|UNAVAILABLE"):
        PumpWriter(server.address).write(b"", timeout_s=0.2)


def test_status_that_is_none(pd, node):
    pd.keys[f"{PUMPS}there:2".encode()] = b"[]"
    with pytest.raises(PDRefusedError, match="is not a pump's status"):
        node.start()
