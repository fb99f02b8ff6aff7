"""Ranges of keys, against sets of keys."""

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.cluster.located import RawKeyRange

LETTERS = [bytes([n]) for n in range(12)]
bounds = st.sampled_from([b"", *LETTERS])
ranges = st.builds(RawKeyRange, bounds, bounds)


def keys_of(keys: RawKeyRange) -> set[bytes]:
    return {key for key in LETTERS if key in keys}


@given(ranges, bounds, bounds)
def test_clipping(keys, start, end):
    clipped = keys.clip(start, end)
    expected = keys_of(keys) & keys_of(RawKeyRange(start, end))
    assert (keys_of(clipped) if clipped else set()) == expected
    if clipped is not None:
        assert not clipped.end or clipped.start < clipped.end
