"""Admin commands on regions, and gaps between regions."""

from dataclasses import replace

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.tikv.region import (
    ApplyState,
    Peer,
    PeerState,
    RaftRegion,
    RegionState,
    child_of,
    commit_merge,
    gap,
    prepare_merge,
    rollback_merge,
)
from pyspark_theflash.tikv.wire import decode_region_state, encode_region_state

PEERS = (Peer(11, 1), Peer(12, 77, 1, is_witness=True))


def region(
    region_id: int, start: bytes, end: bytes, conf_ver: int = 3, version: int = 5
) -> RaftRegion:
    return RaftRegion(RegionID(region_id), start, end, RegionEpoch(conf_ver, version), PEERS)


STATE = RegionState(region(1, b"b", b"d"), ApplyState(20, 6, 10, 5), PEERS[1])


def test_keys() -> None:
    for key, inside in ((b"a", False), (b"b", True), (b"c", True), (b"d", False)):
        assert STATE.region.keys.contains(key) == inside
    assert region(1, b"b", b"").keys.contains(b"\xff")
    assert STATE.region.peer_on(77) == PEERS[1]
    assert STATE.region.peer_on(78) is None


def test_children_begin_anew() -> None:
    child = child_of(STATE, region(9, b"d", b"e"))
    assert child.applied == ApplyState(5, 5, 5, 5)
    assert child.peer == PEERS[1]
    assert child.is_readable
    assert child_of(replace(STATE, peer=None), region(9, b"d", b"e")).peer is None


def test_merges() -> None:
    target = region(2, b"d", b"f", 1, 9)
    source = prepare_merge(STATE, 15, target, 21)
    assert source.region.epoch == RegionEpoch(4, 6)
    assert source.state is PeerState.MERGING
    assert not source.is_readable
    assert source.merge is not None
    assert (source.merge.min_index, source.merge.target, source.merge.commit) == (15, target, 21)
    back = rollback_merge(source)
    assert (back.region.epoch, back.state, back.merge) == (
        RegionEpoch(4, 7),
        PeerState.NORMAL,
        None,
    )
    merged = commit_merge(target, source.region)
    assert merged == replace(target, start=b"b", epoch=RegionEpoch(1, 10))
    right = region(3, b"f", b"", 1, 20)
    merged = commit_merge(target, right)
    assert merged == replace(target, end=b"", epoch=RegionEpoch(1, 21))
    assert commit_merge(target, region(3, b"g", b"")) is None
    assert commit_merge(region(4, b"", b"a"), region(5, b"x", b"")) is None


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([(b"", b"")], None),
        ([(b"b", b"d")], None),
        ([(b"a", b"c"), (b"c", b"e")], None),
        ([(b"a", b"c"), (b"b", b"d")], None),
        ([], (b"b", b"d")),
        ([(b"c", b"d")], (b"b", b"c")),
        ([(b"a", b"c")], (b"c", b"d")),
        ([(b"b", b"ba"), (b"c", b"")], (b"ba", b"c")),
        ([(b"x", b"")], (b"b", b"d")),
    ],
)
def test_gaps(bounds: list[tuple[bytes, bytes]], expected: tuple[bytes, bytes] | None) -> None:
    regions = [region(n, start, end) for n, (start, end) in enumerate(bounds, 1)]
    assert gap(regions, b"b", b"d") == expected


def test_gaps_up_to_the_end() -> None:
    assert gap([region(1, b"a", b"c")], b"b", b"") == (b"c", b"")
    assert gap([region(1, b"a", b"")], b"b", b"") is None


def test_records() -> None:
    merging = prepare_merge(STATE, 15, region(2, b"d", b"f"), 21)
    for state in (STATE, merging, replace(STATE, peer=None)):
        assert decode_region_state(encode_region_state(state)) == state
    for data in (b"\xff", b"", b"\x0a\x02\x08\x63"):
        with pytest.raises(CodecError):
            decode_region_state(data)
