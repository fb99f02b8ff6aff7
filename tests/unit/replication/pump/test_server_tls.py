"""Access to a server that requires certificates."""

from contextlib import contextmanager

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OptionError, PumpRefusedError, PumpUnavailableError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.pump.server import PumpServer
from pyspark_theflash.replication.source.pump import PullLimits, PumpSource
from tests.support import binlog_writer
from tests.support.pump_client import CLUSTER, PumpWriter, RpcError
from tests.support.tls import tls, trust

CLOCK = SystemClock()
MESSAGES = binlog_writer.transaction(1, 3, b"value")


@contextmanager
def serving(spool, **settings):
    """A server for other machines, and its address on this one."""
    server = PumpServer(spool, "0.0.0.0:0", clock=CLOCK, tls=tls("server"), **settings)
    server.start()
    try:
        yield server.address.replace("0.0.0.0", "localhost")
    finally:
        server.stop(0)


def code(address, files, timeout_s=20):
    """Return the status code of a write; None if it succeeds."""
    with PumpWriter(address, files) as writer:
        try:
            assert writer.write(MESSAGES[0], timeout_s=timeout_s) == ""
        except RpcError as error:
            return error.code()


def test_certificate_of_our_authority(spool):
    with serving(spool) as address:
        assert code(address, tls("client")) is None
        assert code(address, tls("stranger")) is None
        source = PumpSource(address, CLUSTER, tls("client"), clock=CLOCK)
        assert [entity.start_ts for entity in source.entities()] == [1, 1]
        source.close()


@pytest.mark.parametrize("files", [None, trust(), tls("other"), tls("client", ca="other-ca")])
def test_others_do_not_get_in(spool, files):
    with serving(spool) as address:
        # The connection is tried again and again, until the call's deadline.
        assert code(address, files, 0.3) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert list(spool.source().frames()) == []


def test_names_that_may_call(spool):
    with serving(spool, allowed_names=("tidb", "drainer")) as address:
        assert code(address, tls("client")) is None
        assert code(address, tls("stranger")) is grpc.StatusCode.PERMISSION_DENIED
        source = PumpSource(address, CLUSTER, tls("stranger"), clock=CLOCK)
        with pytest.raises(PumpRefusedError, match="PERMISSION_DENIED"):
            list(source.entities())


def test_source_without_certificates(spool):
    limits = PullLimits(deadline_ms=200)
    with (
        serving(spool) as address,
        PumpSource(address, CLUSTER, trust("other-ca"), clock=CLOCK, limits=limits) as source,
        pytest.raises(PumpUnavailableError, match="certificates"),
    ):
        list(source.entities())


def refusal(spool, address, **settings):
    with pytest.raises(OptionError) as caught:
        PumpServer(spool, address, clock=CLOCK, **settings)
    return str(caught.value)


def test_settings_that_do_not_go_together(tmp_path, spool):
    assert "needs a certificate" in refusal(spool, "0.0.0.0:0", tls=trust())
    assert "takes no certificates" in refusal(spool, f"unix:{tmp_path}/s", tls=tls("server"))
    assert "needs TLS" in refusal(spool, "127.0.0.1:0", allowed_names=("tidb",))
    source = PumpSource(f"unix:{tmp_path}/s", CLUSTER, tls("client"), clock=CLOCK)
    with pytest.raises(OptionError, match=r"is not of the form HOST:PORT$"):
        list(source.entities())
