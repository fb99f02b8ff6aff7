import socket
import threading

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    OptionError,
    PDRefusedError,
    PDUnavailableError,
)
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.net.channel import grpc
from tests.support.fake_pd import FakePD
from tests.support.manual_clock import ManualClock
from tests.support.tls import tls, trust

CLUSTER = 2**63 + 5
CLOCK = SystemClock()


@pytest.fixture
def pd():
    with FakePD(CLUSTER) as fake:
        yield fake


def client_of(*addresses, timeout_ms=2000, files=None):
    return PDClient(addresses, files, clock=CLOCK, timeout_ms=timeout_ms)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_what_pd_says(pd):
    with client_of(f"http://{pd.address}/") as client:
        assert client.cluster_id() == CLUSTER
        assert client.tso() == 1_700_000_000_000 << 18 | 8
        assert client.tso() == 1_700_000_000_000 << 18 | 9
        assert client.gc_safe_point() == 5


def test_keys(pd):
    with client_of(pd.address) as client:
        for key in ("/a/1", "/a/2", "/a", "/b/1"):
            client.put_key(key, key.encode())
        assert client.list_keys("/a/", 2) == {"/a/1": b"/a/1", "/a/2": b"/a/2"}
        assert client.list_keys("/c/", 2) == {}
        with pytest.raises(PDRefusedError, match="more than 1"):
            client.list_keys("/a/", 1)


def test_any_member_knows_the_leader(pd):
    with FakePD(CLUSTER) as follower:
        follower.leader = f"http://{pd.address}"
        with client_of(free_port(), follower.address) as client:
            client.tso()
        assert (follower.calls, pd.calls) == ([], ["Tso"])


def test_leader_that_changes(pd):
    with FakePD(CLUSTER) as other, client_of(pd.address, other.address) as client:
        client.tso()
        other.clock = (1_800_000_000_000, 0)
        pd.stop()
        assert client.tso() == 1_800_000_000_000 << 18 | 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
def test_failures_that_pass(pd, code):
    pd.failures = [code, code]
    with client_of(pd.address) as client:
        client.tso()
        pd.failures = [code]
        client.put_key("/a", b"")
    assert pd.calls == ["Tso"] * 3 + ["Put"] * 2


def test_failure_that_does_not_pass(pd):
    pd.failures = [grpc.StatusCode.INVALID_ARGUMENT]
    with client_of(pd.address) as client, pytest.raises(PDRefusedError, match="INVALID_ARGUMENT"):
        client.tso()


def test_error_in_an_answer(pd):
    with client_of(pd.address) as client:
        client.cluster_id()
        pd.header_error = "not yet"
        with pytest.raises(PDRefusedError, match="error 1: not yet"):
            client.tso()
        with pytest.raises(PDRefusedError, match="error 1: not yet"):
            client.gc_safe_point()


@pytest.mark.parametrize(("physical", "logical"), [(0, 1), (2**46, 1), (5, 2**18), (-5, 1)])
def test_timestamp_that_is_none(pd, physical, logical):
    pd.clock = (physical, logical - 1)
    with client_of(pd.address) as client, pytest.raises(PDRefusedError, match="is no timestamp"):
        client.tso()


def test_no_member_answers():
    with client_of(free_port(), timeout_ms=300) as client:
        with pytest.raises(PDUnavailableError) as caught:
            client.tso()
        assert caught.value.retryable


def test_no_leader_for_a_while(pd):
    pd.no_leader = True
    with (
        client_of(pd.address, timeout_ms=800) as client,
        pytest.raises(PDUnavailableError, match="no leader"),
    ):
        client.tso()
    threading.Timer(0.2, setattr, (pd, "no_leader", False)).start()
    with client_of(pd.address) as client:
        client.tso()


def test_members_of_another_cluster(pd):
    with FakePD(7) as other, client_of(pd.address, other.address) as client:
        client.tso()
        pd.stop()
        with pytest.raises(ClusterMismatchError, match="is of cluster 7"):
            client.tso()


@pytest.mark.parametrize(
    ("addresses", "files", "reason"),
    [
        ((), None, "contains no address"),
        (("https://127.0.0.1:80",), None, "needs certificates"),
        (("ftp://127.0.0.1:80",), None, "is not of the form HOST:PORT"),
    ],
)
def test_addresses_that_cannot_be_used(addresses, files, reason):
    with pytest.raises(OptionError, match=reason):
        client_of(*addresses, files=files)


def test_certificates(pd):
    with (
        client_of(f"https://{pd.address}", timeout_ms=300, files=tls("client")) as client,
        pytest.raises(PDUnavailableError),
    ):
        client.tso()
    with pytest.raises(OptionError, match="cannot read"):
        client_of(pd.address, files=trust("none")).tso()


def test_a_long_wait_is_logged_once(caplog):
    client = PDClient([free_port()], clock=ManualClock(), timeout_ms=6000)
    with client, pytest.raises(PDUnavailableError):
        client.tso()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("waiting up to 3 s for PD at 127.0.0.1:")
