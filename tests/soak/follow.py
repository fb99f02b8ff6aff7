"""`theflash follow` of a live cluster under load, killed again and again, compared with TiDB.

First the load of new stores is killed, until it has been killed often enough and the last store is
complete; then that store is followed, by a process that is killed at random. All along there are
transactions, DDL, splits, killed clients and faults of the feed (`follow_load`). TiDB's rows are
read at many timestamps, and compared when the store is readable there.

Environment: FOLLOW_MODE (v8.5 or v6.5), FOLLOW_ROWS (1000000), FOLLOW_LOAD_KILLS (20),
FOLLOW_KILLS (100), FOLLOW_COMPARISONS (1000), FOLLOW_ENTER=1 for tables that enter with rows,
FOLLOW_FAULT_S (6) for the longest pause between faults: after a cut, all regions are scanned again.
"""

import os
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.soak.follow_answers import Answers, compare_all
from tests.soak.follow_load import CLOCK, Load, Place, create
from tests.soak.follow_process import POLL_MS, Follower
from tests.soak.outcome import Outcome
from tests.support.peer import Peer

_MORE_TIME = 4
"""If there are too few comparisons at the end, the run lasts up to so many times as long."""
_VERIFY_S = 900


@dataclass(frozen=True)
class Size:
    """Size of a run."""

    mode: str = "v8.5"
    rows: int = 1_000_000
    load_kills: int = 20
    kills: int = 100
    comparisons: int = 1_000
    enters: bool = False
    fault_s: float = 6.0

    @classmethod
    def of_environment(cls) -> "Size":
        """Return the size that the environment asks for."""
        return cls(
            os.environ.get("FOLLOW_MODE", cls.mode),
            int(os.environ.get("FOLLOW_ROWS", cls.rows)),
            int(os.environ.get("FOLLOW_LOAD_KILLS", cls.load_kills)),
            int(os.environ.get("FOLLOW_KILLS", cls.kills)),
            int(os.environ.get("FOLLOW_COMPARISONS", cls.comparisons)),
            os.environ.get("FOLLOW_ENTER", "0") == "1",
            float(os.environ.get("FOLLOW_FAULT_S", cls.fault_s)),
        )


def run(
    folder: Path, *, first_seed: int, seconds: float, outcome: Outcome, size: Size | None = None
) -> None:
    """Follow one cluster for some time."""
    size = size or Size.of_environment()
    rng = Random(first_seed)
    with Peer(folder / "peer", cdc=size.mode) as peer:
        _say(f"{size}")
        create(peer, size.rows)
        _say("the tables are filled")
        place = Place(peer, size.rows, outcome, threading.Event(), size.enters, size.fault_s)
        with Load(place, first_seed) as load:
            follower = _load(folder, place, size.load_kills, rng)
            _say(f"loaded: {outcome.summary()}")
            with Answers(place, rng.randrange(1 << 31)) as answers:
                _follow(follower, answers, load, size, rng, seconds)
        _end(follower, place)


def _say(text: str) -> None:
    sys.stdout.write(f"{CLOCK.wall_ms() // 1000}: {text}\n")
    sys.stdout.flush()


def _load(folder: Path, place: Place, kills: int, rng: Random) -> Follower:
    """Load stores one after the other, killed at random; return one that is loaded."""
    counts, number = place.outcome.counts, 0
    while True:
        follower = Follower(place.peer, folder / f"store{number}", place.outcome)
        follower.start()
        while not follower.is_readable():
            if counts["kills: load"] < kills and CLOCK.boottime_ms() >= follower.kill_ms:
                follower.kill()
                counts["kills: load"] += not follower.is_readable()
                follower.start(rng.randrange(1000, 15_000))
            follower.check()
            CLOCK.sleep_ms(POLL_MS)
        counts["loads"] += 1
        ts = place.peer.tso()
        follower.reach(ts)
        compare_all(place, follower.store, ts)
        if counts["kills: load"] >= kills:
            return follower
        follower.kill()
        shutil.rmtree(follower.store)
        number += 1


def _follow(
    follower: Follower, answers: Answers, load: Load, size: Size, rng: Random, seconds: float
) -> None:
    """Follow for some seconds, with kills, and compare."""
    counts = answers.place.outcome.counts
    begin_ms = said_ms = CLOCK.boottime_ms()
    pause_ms = round(1000 * seconds) // max(size.kills, 1)
    next_ms = begin_ms
    while not (load.has_failed or answers.has_failed):
        now_ms = CLOCK.boottime_ms()
        is_enough = counts["comparisons"] >= size.comparisons and counts["kills"] >= size.kills
        spent_s = (now_ms - begin_ms) / 1000
        if spent_s >= seconds and (is_enough or spent_s >= _MORE_TIME * seconds):
            break
        if counts["kills"] < size.kills and now_ms >= next_ms and follower.has_caught_up():
            follower.kill()
            counts["kills"] += 1
            follower.start()
            next_ms = now_ms + rng.randrange(2 * pause_ms + 1)
        follower.check()
        if not answers.compare(follower.store, follower.resolved_ts()):
            CLOCK.sleep_ms(POLL_MS)
        if now_ms - said_ms > 30_000:
            said_ms = now_ms
            _say(answers.place.outcome.summary())


def _end(follower: Follower, place: Place) -> None:
    """Compare everything when nothing changes any more; verify; stop the process."""
    ts = place.peer.tso()
    follower.reach(ts)
    compare_all(place, follower.store, ts)
    place.outcome.counts["verified"] += follower.verify(ts, _VERIFY_S)
    follower.stop()
