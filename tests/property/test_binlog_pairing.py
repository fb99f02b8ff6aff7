"""Any history, however it is delivered: the same transactions, published once, never too early.

Histories are made as TiDB makes them. One clock gives all timestamps; a commit_ts is asked for when
the prewrite has arrived, and is delivered some time later; some transactions are rolled back.
"""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pairing.pending import PendingTransaction
from pyspark_theflash.replication.source.event import Entity, EntityKind, Transaction

randoms = st.randoms(use_true_random=False)


def make_history(rng, count):
    """Entities in the order of their first delivery."""
    clock, entities = 0, []
    unborn, started, prewritten, ended = count, [], [], []
    while unborn or started or prewritten or ended:
        clock += rng.randrange(3)
        stages = [("start", unborn), ("prewrite", started), ("end", prewritten), ("deliver", ended)]
        stage = rng.choice([name for name, waiting in stages if waiting])
        if stage == "start":
            unborn, clock = unborn - 1, clock + 1
            started.append(clock)
        elif stage == "prewrite":
            start_ts = started.pop(rng.randrange(len(started)))
            payload = rng.choice([b"", b"a", b"bb"])
            entities.append(Entity(EntityKind.PREWRITE, start_ts, 0, payload, None, "f", 0))
            prewritten.append(start_ts)
        elif stage == "end":
            start_ts, clock = prewritten.pop(rng.randrange(len(prewritten))), clock + 1
            kind = rng.choice([EntityKind.COMMIT, EntityKind.COMMIT, EntityKind.ROLLBACK])
            commit_ts = clock if kind is EntityKind.COMMIT else 0
            ended.append(Entity(kind, start_ts, commit_ts, b"", None, "f", 0))
        else:
            entities.append(ended.pop(rng.randrange(len(ended))))
    return entities, clock + 1


def heartbeat(ts):
    return Entity(EntityKind.ROLLBACK, ts, ts, b"", None, "f", 0)


def expected(entities):
    payloads = {e.start_ts: e.payload for e in entities if e.kind is EntityKind.PREWRITE}
    commits = sorted((e.commit_ts, e.start_ts) for e in entities if e.kind is EntityKind.COMMIT)
    return [Transaction(s, c, payloads[s], None) for c, s in commits]


def naive_resolved_ts(arrived):
    """The rule over all arrived messages, without state. Duplicates are left out."""
    prewrites, commits, rolled_back, newest = {}, {}, set(), 0
    for entity in arrived:
        newest = max(newest, entity.commit_ts)
        if entity.kind is EntityKind.PREWRITE:
            prewrites[entity.start_ts] = max(newest, entity.start_ts)
        elif entity.kind is EntityKind.COMMIT:
            commits[entity.start_ts] = entity.commit_ts - 1
        else:
            rolled_back.add(entity.start_ts)
    waiting = [hold for s, hold in prewrites.items() if s not in commits and s not in rolled_back]
    waiting += [hold for s, hold in commits.items() if s not in prewrites]
    return min([newest, *waiting])


@dataclass
class Store:
    """The durable state: that of the last publication."""

    entries: list[LedgerEntry] = field(default_factory=list)
    resolved_ts: int = 0
    max_commit_ts: int = 0
    pending: list[bytes] = field(default_factory=list)
    published: list[Transaction] = field(default_factory=list)
    position: int = 0


class Writer:
    """A writer over a store. It is created again after a crash."""

    def __init__(self, store, pumps=1):
        self.store, self.ledger = store, TransactionLedger()
        self.ledger.add(store.entries)
        self.pairing = Pairing(
            self.ledger,
            resolved_ts=store.resolved_ts,
            streams=[store.max_commit_ts] * pumps,
            pending=map(PendingTransaction.from_bytes, store.pending),
        )

    def publish(self, position, resolved_ts):
        store, taken = self.store, self.pairing.take_resolved(resolved_ts)
        assert all(store.resolved_ts < t.commit_ts <= resolved_ts for t in taken)
        entries = [LedgerEntry.committed(t) for t in taken]
        entries += map(LedgerEntry.rolled_back, self.pairing.take_rolled_back())
        self.ledger.add(entries)
        store.entries += entries
        store.resolved_ts, store.max_commit_ts = resolved_ts, self.pairing.max_commit_ts
        store.pending = [each.to_bytes() for each in self.pairing.pending()]
        store.published += taken
        store.position = max(store.position, position)


@given(randoms, st.integers(1, 12))
def test_resolved_ts_follows_the_rule_and_is_safe(rng, count):
    entities, end = make_history(rng, count)
    entities.append(heartbeat(end))
    pairing, resolved_ts = Pairing(TransactionLedger()), 0
    for at, entity in enumerate(entities):
        pairing.add(entity)
        for again in rng.sample(entities[: at + 1], rng.randrange(min(3, at + 1))):
            pairing.add(again)
        resolved_ts = max(resolved_ts, naive_resolved_ts(entities[: at + 1]))
        assert pairing.resolved_ts == resolved_ts
        to_come = {e.start_ts for e in entities[at + 1 :]}
        assert all(t.commit_ts > resolved_ts for t in expected(entities) if t.start_ts in to_come)
    assert pairing.resolved_ts == end


@given(randoms, st.integers(1, 12))
def test_any_delivery_with_crashes_publishes_each_transaction_once(rng, count):
    """Publish, crash, restart from an earlier point and deliver messages again, at random."""
    entities, end = make_history(rng, count)
    entities.append(heartbeat(end))
    store, at = Store(), 0
    writer = Writer(store)
    while at < len(entities) or rng.random() > 0.5:
        what = rng.random()
        if what < 0.6 and at < len(entities):
            writer.pairing.add(entities[at])
            at += 1
        elif what < 0.75:
            top = writer.pairing.resolved_ts
            writer.publish(at, rng.randint(store.resolved_ts, top))
        elif what < 0.85 and at:
            writer.pairing.add(rng.choice(entities[:at]))
        elif what < 0.92:
            at = rng.randint(0, at)
        else:
            writer, at = Writer(store), rng.randint(0, store.position)
    writer = Writer(store)
    for entity in entities[rng.randint(0, store.position) :]:
        writer.pairing.add(entity)
    writer.publish(len(entities), writer.pairing.resolved_ts)
    assert store.published == expected(entities)
    assert (store.resolved_ts, store.pending) == (end, [])


def over_pumps(rng, entities, pumps, end):
    """Each entity at a random pump, in order there; read with any delay."""
    queues = [[] for _ in range(pumps)]
    for entity in entities:
        for stream in {rng.randrange(pumps), *rng.sample(range(pumps), rng.random() < 0.1)}:
            queues[stream].append(replace(entity, stream=stream))
    for stream, queue in enumerate(queues):
        queue.append(replace(heartbeat(end), stream=stream))
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        for _ in range(rng.randint(1, 6)):
            if queue:
                yield queue.pop(0)


@given(randoms, st.integers(1, 12), st.integers(2, 4))
def test_several_pumps_are_as_one(rng, count, pumps):
    """Halves of a transaction at different pumps, some at two, restarts in between."""
    entities, end = make_history(rng, count)
    arriving = list(over_pumps(rng, entities, pumps, end))
    whole, store = expected(entities), Store()
    writer = Writer(store, pumps)
    for at, entity in enumerate(arriving):
        writer.pairing.add(entity)
        resolved_ts = writer.pairing.resolved_ts
        begun = {e.start_ts for e in arriving[: at + 1] if e.kind is EntityKind.PREWRITE}
        ended = {e.start_ts for e in arriving[: at + 1] if e.kind is EntityKind.COMMIT}
        to_come = [t for t in whole if t.start_ts not in begun & ended]
        assert all(t.commit_ts > resolved_ts for t in to_come)
        if rng.random() < 0.3:
            writer.publish(at, resolved_ts)
            if rng.random() < 0.5:
                writer = Writer(store, pumps)
    # A restart forgets the progress of the streams.
    for stream in range(pumps):
        writer.pairing.add(replace(heartbeat(end), stream=stream))
    assert writer.pairing.resolved_ts == end
    writer.publish(len(arriving), end)
    assert store.published == whole


@given(randoms, st.integers(1, 12))
def test_lost_ends_that_others_tell(rng, count):
    """Some commits and rollbacks never arrive; their outcomes are settled at any later time."""
    entities, end = make_history(rng, count)
    lost = [e for e in entities if e.kind is not EntityKind.PREWRITE and rng.random() < 0.4]
    undelivered, store = [], Store()
    writer = Writer(store)
    for at, entity in enumerate([*entities, heartbeat(end)]):
        if entity in lost:
            undelivered.append(entity)
        else:
            writer.pairing.add(entity)
        if rng.random() < 0.3:
            writer.publish(at, writer.pairing.resolved_ts)
        if undelivered and rng.random() < 0.4:
            each = rng.choice(undelivered)
            writer.pairing.settle(each.start_ts, each.commit_ts)
    for each in undelivered:
        writer.pairing.settle(each.start_ts, each.commit_ts)
    for again in rng.sample(entities, rng.randrange(len(entities))):
        writer.pairing.add(again)
    writer.publish(len(entities), writer.pairing.resolved_ts)
    assert (store.published, store.resolved_ts) == (expected(entities), end)


@given(randoms, st.integers(1, 12))
def test_any_order_resolved_at_its_end(rng, count):
    """Input without an order: shuffled, doubled, with restarts; complete by the caller's word."""
    entities, end = make_history(rng, count)
    stream = entities + rng.sample(entities, rng.randrange(len(entities)))
    rng.shuffle(stream)
    ledger = TransactionLedger()
    pairing = Pairing(ledger)
    for entity in stream:
        pairing.add(entity)
        if rng.random() < 0.2:
            ledger.add(map(LedgerEntry.rolled_back, pairing.take_rolled_back()))
            pairing = Pairing(ledger, pending=pairing.pending())
    pairing.vouch(end)
    assert pairing.take_resolved(end) == expected(entities)
    assert pairing.pending() == []
