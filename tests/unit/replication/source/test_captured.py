"""Messages of a real TiDB: counts, an independent pairing, resolved_ts at every step."""

import random
from collections import Counter

import pytest

from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.prewrite import parse_prewrite

NAMES = ["bank", "tpcc", "tpch"]
COUNTS = {"bank": (20492, 20106, 386), "tpcc": (3615, 3615, 0), "tpch": (224, 224, 0)}
ROWS = {"bank": 58377, "tpcc": 68343, "tpch": 240972}


@pytest.fixture(scope="module")
def captured(fixtures):
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = list(FileSource(fixtures / name / "binlog.bin.gz").entities())
        return loaded[name]

    return load


def expected(entities):
    """Return (commit_ts, start_ts, payload) of committed transactions, in order."""
    payloads = {e.start_ts: e.payload for e in entities if e.kind is EntityKind.PREWRITE}
    commits = {(e.commit_ts, e.start_ts) for e in entities if e.kind is EntityKind.COMMIT}
    return [(commit_ts, start_ts, payloads[start_ts]) for commit_ts, start_ts in sorted(commits)]


def pair(entities, every):
    """Return the transactions, published whenever `every` entities have been added."""
    ledger, taken = TransactionLedger(), []
    pairing = Pairing(ledger)
    for at in range(0, len(entities), every):
        for entity in entities[at : at + every]:
            pairing.add(entity)
        batch = pairing.take_resolved(pairing.resolved_ts)
        ledger.add(map(LedgerEntry.committed, batch))
        ledger.add(map(LedgerEntry.rolled_back, pairing.take_rolled_back()))
        taken += [(t.commit_ts, t.start_ts, t.payload) for t in batch]
    assert pairing.pending() == []
    assert pairing.buffered_bytes == 0
    assert pairing.resolved_ts == pairing.max_commit_ts == taken[-1][0]
    return taken


@pytest.mark.parametrize("name", NAMES)
def test_counts(captured, name):
    kinds = Counter(entity.kind for entity in captured(name))
    assert tuple(kinds[kind] for kind in EntityKind) == COUNTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_prewrite_parses(captured, name):
    prewrites = [parse_prewrite(entity.payload) for entity in captured(name) if entity.payload]
    assert sum(len(m.sequence) for p in prewrites for m in p.mutations) == ROWS[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("every", [1, 100, 10**6])
def test_pairing(captured, name, every):
    assert pair(captured(name), every) == expected(captured(name))


@pytest.mark.parametrize("name", NAMES)
def test_resolved_ts_at_every_step(captured, name):
    """It never decreases, and never reaches a commit that is not complete yet."""
    entities = captured(name)
    position = {}
    commit_ts = {e.start_ts: e.commit_ts for e in entities if e.kind is EntityKind.COMMIT}
    for at, entity in enumerate(entities):
        position[entity.start_ts] = at
    missing = sorted(((position[s], commit_ts[s]) for s in commit_ts), reverse=True)
    lowest_missing = [2**64] * (len(entities) + 1)
    for at in range(len(entities) - 1, -1, -1):
        lowest_missing[at] = lowest_missing[at + 1]
        while missing and missing[0][0] == at:
            lowest_missing[at] = min(lowest_missing[at], missing.pop(0)[1])
    pairing, before = Pairing(TransactionLedger()), 0
    for at, entity in enumerate(entities):
        pairing.add(entity)
        assert before <= pairing.resolved_ts < lowest_missing[at + 1]
        before = pairing.resolved_ts


def test_every_frame_twice(captured):
    entities = captured("bank")
    assert pair([e for e in entities for _ in range(2)], 1000) == expected(entities)


@pytest.mark.parametrize("every", [1000, 10**6])
def test_the_stream_again(captured, every):
    entities = captured("bank")
    assert pair(entities + entities, every) == expected(entities)


def test_again_from_random_points(captured):
    entities, rng = captured("bank"), random.Random(7)
    stream, at = [], 0
    while at < len(entities):
        end = at + rng.randrange(1, 8000)
        stream += entities[at:end]
        at = max(0, end - rng.randrange(6000)) if end < len(entities) else end
    assert len(stream) > 2 * len(entities)
    assert pair(stream, 1500) == expected(entities)


def test_two_files_that_overlap(captured, fixtures, tmp_path):
    source = fixtures / "tpch" / "binlog.bin.gz"
    for name in ("binlog-1.gz", "binlog-2.gz"):
        (tmp_path / name).symlink_to(source)
    entities = list(FileSource(tmp_path).entities())
    assert pair(entities, 50) == expected(captured("tpch"))
