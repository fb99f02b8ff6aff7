"""Watches of PD's etcd: changes, revisions that are gone, and PD that is gone for a while."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.cluster import wire
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.watch import KeyWatch, WatchedKeys
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from tests.support.fake_pd import FakePD
from tests.support.processes import wait_until
from tests.support.tls import tls, trust

CLOCK = SystemClock()
PREFIX = "/tidb/brie/import/"
ONE, TWO = PREFIX + "lightning/1", PREFIX + "restore/2"


@pytest.fixture
def pd() -> Iterator[FakePD]:
    with FakePD(7) as fake:
        yield fake


@pytest.fixture
def client(pd: FakePD) -> Iterator[PDClient]:
    with PDClient([pd.address], clock=CLOCK, timeout_ms=2000) as client:
        yield client


def wait_for(watch: KeyWatch, is_seen: Callable[[WatchedKeys], bool]) -> WatchedKeys:
    deadline = Deadline(CLOCK, 60_000)
    while (keys := watch.keys) is None or not is_seen(keys):
        assert deadline.sleep_ms(5)
    return keys


def test_a_watch_by_tls() -> None:
    with (
        FakePD(7, tls("server")) as pd,
        PDClient([pd.address], tls("client"), clock=CLOCK) as client,
        closing(KeyWatch(client, PREFIX, 1)) as watch,
    ):
        pd.set_key(ONE.encode())
        assert wait_for(watch, lambda keys: bool(keys.keys)).keys == {ONE}


@pytest.mark.parametrize("files", [None, trust(), tls("client", "other-ca"), tls("other")])
def test_a_watch_without_the_right_certificate(
    files: TlsFiles | None, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        FakePD(7, tls("server")) as pd,
        PDClient([pd.address], files, clock=CLOCK, timeout_ms=300) as client,
        closing(KeyWatch(client, PREFIX, 1)) as watch,
    ):
        wait_until(lambda: "not watched, retrying: PD at" in caplog.text, 60_000)
        assert watch.keys is None


def test_changes_of_keys_with_the_prefix(pd: FakePD, client: PDClient) -> None:
    with closing(KeyWatch(client, PREFIX, 1)) as watch:
        pd.set_key(ONE.encode())
        pd.set_key(b"/pd/other")
        keys = wait_for(watch, lambda keys: keys.revision == 3)
        assert keys == WatchedKeys(3, 2, frozenset({ONE}))
        pd.set_key(ONE.encode(), None)
        keys = wait_for(watch, lambda keys: not keys.keys)
        assert keys.changed == pd.revision


def test_a_key_that_was_set_and_removed_before_the_watch(pd: FakePD, client: PDClient) -> None:
    since = pd.revision
    pd.set_key(TWO.encode())
    pd.set_key(ONE.encode())
    pd.set_key(ONE.encode(), None)
    with closing(KeyWatch(client, PREFIX, since)) as watch:
        keys = wait_for(watch, lambda keys: keys.revision == pd.revision)
        assert keys == WatchedKeys(pd.revision, pd.revision, frozenset({TWO}))


def test_without_changes(pd: FakePD, client: PDClient) -> None:
    pd.set_key(ONE.encode())
    since = pd.revision
    pd.set_key(b"/pd/other")
    with closing(KeyWatch(client, PREFIX, since)) as watch:
        keys = wait_for(watch, lambda keys: keys.revision > since)
        assert keys == WatchedKeys(pd.revision, 0, frozenset({ONE}))


@pytest.mark.parametrize("since", [None, 99])
def test_an_unknown_past_counts_as_a_change(
    pd: FakePD, client: PDClient, since: int | None
) -> None:
    with closing(KeyWatch(client, PREFIX, since)) as watch:
        assert wait_for(watch, lambda _: True).changed == pd.revision


def test_a_compacted_past_counts_as_a_change(pd: FakePD, client: PDClient) -> None:
    for value in (b"", None):
        pd.set_key(ONE.encode(), value)
    pd.set_key(TWO.encode())
    pd.compacted = pd.revision
    with closing(KeyWatch(client, PREFIX, 1)) as watch:
        keys = wait_for(watch, lambda keys: keys.changed > 0)
        assert keys == WatchedKeys(pd.revision, pd.revision, frozenset({TWO}))
        pd.set_key(TWO.encode(), None)
        wait_for(watch, lambda keys: not keys.keys)


def test_a_watch_continues_after_an_error(
    pd: FakePD, client: PDClient, caplog: pytest.LogCaptureFixture
) -> None:
    pd.failures = [grpc.StatusCode.PERMISSION_DENIED] * 2
    with closing(KeyWatch(client, PREFIX, 1)) as watch:
        pd.set_key(ONE.encode())
        wait_for(watch, lambda keys: ONE in keys.keys and keys.changed > 0)
    assert "are not watched" in caplog.text


def test_responses() -> None:
    def encoded(**fields: object) -> bytes:
        return kv_pb2.WatchResponse(**fields).SerializeToString()  # type: ignore[arg-type]

    header = kv_pb2.ResponseHeader(revision=9)
    assert wire.decode_key_changes(encoded(header=header, created=True)).revision is None
    assert wire.decode_key_changes(encoded(header=header)).revision == 9
    with pytest.raises(CodecError, match="it was ended: full"):
        wire.decode_key_changes(encoded(canceled=True, cancel_reason="full"))
    changes = wire.KeyChanges(5, ((ONE, True),))
    later = WatchedKeys(9, 3, frozenset({TWO}))
    assert later.after(changes) is later
