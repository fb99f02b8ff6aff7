"""Access to a server that requires certificates."""

import shutil
import threading
from contextlib import contextmanager

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OptionError, PumpRefusedError, PumpUnavailableError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.channel import grpc, open_channel
from pyspark_theflash.replication.pump.server import PumpServer
from pyspark_theflash.replication.source.pump import PullLimits, PumpSource
from tests.support import binlog_writer
from tests.support.pump_client import CLUSTER, WRITE_BINLOG, PumpWriter, RpcError
from tests.support.tls import FOLDER, tls, trust

CLOCK = SystemClock()
MESSAGES = binlog_writer.transaction(1, 3, binlog_writer.row_value(5))


@contextmanager
def serving(spool, **settings):
    """A server for other machines, and its address on this one."""
    access = Access(settings.pop("files", tls("server")), ("tidb", "drainer"))
    server = PumpServer(spool, "0.0.0.0:0", clock=CLOCK, access=access, **settings)
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
        source = PumpSource(address, CLUSTER, tls("client"), clock=CLOCK)
        assert [entity.start_ts for entity in source.entities()] == [1]
        source.close()


@pytest.mark.parametrize("files", [None, trust(), tls("other"), tls("client", ca="other-ca")])
def test_others_do_not_get_in(spool, files):
    with serving(spool) as address:
        # The connection is tried again and again, until the call's deadline.
        assert code(address, files, 0.3) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert list(spool.source().frames()) == []


def unending():
    """A request of which nothing is sent, until the call ends."""
    threading.Event().wait(5)
    yield from ()


def test_names_that_may_call(spool, caplog):
    with serving(spool) as address:
        assert code(address, tls("client")) is None
        assert code(address, tls("stranger")) is grpc.StatusCode.PERMISSION_DENIED
        assert "its certificate is not allowed" in caplog.text
        # Before the message is sent.
        with open_channel(address, tls("stranger"), max_message_bytes=-1) as channel:
            call = channel.stream_unary(WRITE_BINLOG).future(unending())
            assert call.exception(60).code() is grpc.StatusCode.PERMISSION_DENIED
            call.cancel()
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


def test_renewed_certificates(tmp_path, spool, caplog):
    """The files are read for each connection; while they cannot be used, the last ones count."""
    for name in ("ca.pem", "other.pem", "other.key"):
        shutil.copy(FOLDER / name, tmp_path / name.replace("other", "own"))
    own = TlsFiles(tmp_path / "ca.pem", tmp_path / "own.pem", tmp_path / "own.key")
    with serving(spool, files=own) as address:
        assert code(address, tls("client"), 0.3) is grpc.StatusCode.DEADLINE_EXCEEDED
        for kind in ("pem", "key"):
            shutil.copy(FOLDER / f"server.{kind}", tmp_path / f"own.{kind}")
        assert code(address, tls("client")) is None
        (tmp_path / "own.key").write_text("no key")
        assert code(address, tls("client")) is None
        assert "earlier certificates remain in use" in caplog.text


def refusal(spool, address, *access):
    with pytest.raises(OptionError) as caught:
        PumpServer(spool, address, clock=CLOCK, access=Access(*access))
    return str(caught.value)


def test_settings_that_do_not_go_together(tmp_path, spool):
    names = ("tidb",)
    assert "needs a certificate" in refusal(spool, "0.0.0.0:0", trust(), names)
    assert "takes no certificates" in refusal(spool, f"unix:{tmp_path}/s", tls("server"), names)
    assert "without certificates" in refusal(spool, f"unix:{tmp_path}/s", None, (), True)
    assert "needs TLS" in refusal(spool, "127.0.0.1:0", None, names)
    assert "common names" in refusal(spool, "127.0.0.1:0", tls("server"))
    assert "without certificates" in refusal(spool, "127.0.0.1:0", tls("server"), names, True)
    source = PumpSource(f"unix:{tmp_path}/s", CLUSTER, tls("client"), clock=CLOCK)
    with pytest.raises(OptionError, match=r"is not of the form HOST:PORT$"):
        list(source.entities())
