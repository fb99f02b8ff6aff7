import random

from pyspark_theflash.replication.pairing.hold import Holds


def test_lowest_of_what_is_held():
    holds = Holds()
    assert holds.lowest() is None
    holds.hold(1, 10)
    holds.hold(2, 5)
    holds.hold(3, 7)
    assert holds.lowest() == 5
    holds.release(3)
    holds.release(2)
    assert holds.lowest() == 10
    holds.release(1)
    assert holds.lowest() is None


def test_like_a_minimum_over_all():
    rng = random.Random(3)
    holds, model = Holds(), {}
    for _ in range(20_000):
        start_ts = rng.randrange(1, 3000)
        if start_ts in model:
            holds.release(start_ts)
            del model[start_ts]
        else:
            model[start_ts] = rng.randrange(100)
            holds.hold(start_ts, model[start_ts])
        if rng.random() < 0.1:
            assert holds.lowest() == min(model.values(), default=None)


def test_released_entries_do_not_pile_up():
    holds = Holds()
    holds.hold(0, 1)
    for start_ts in range(1, 100_000):
        holds.hold(start_ts, start_ts + 1)
        holds.release(start_ts)
    assert holds.lowest() == 1
    assert len(holds._heap) < 2000
