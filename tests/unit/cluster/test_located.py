"""Ranges of keys and what covers them, against sets of keys."""

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.cluster.located import RawKeyRange, first_gap

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


@given(ranges, st.lists(ranges, max_size=5))
def test_first_gap(wanted, parts):
    covered = set().union(*map(keys_of, parts))
    missing = sorted(keys_of(wanted) - covered)
    gap = first_gap(wanted, parts)
    if missing:
        assert gap is not None
        assert gap.start <= missing[0]
        assert missing[0] in gap
        assert not keys_of(gap) & covered
    elif wanted.end:
        # Below a bound there is always another key, above the last of these there is not.
        assert gap is None or not keys_of(gap)
