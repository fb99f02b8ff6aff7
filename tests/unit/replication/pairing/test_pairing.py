from dataclasses import replace

import pytest

from pyspark_theflash.base.errors import (
    InternalError,
    TransactionConflictError,
    UnmatchedPrewriteError,
)
from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pairing.pending import PendingTransaction
from pyspark_theflash.replication.source.event import DdlInfo, Entity, EntityKind, Transaction

JOB = DdlInfo("create table t(a int)", 9, 5)


def prewrite(start_ts, payload=b"value", ddl=None, commit_ts=0):
    return Entity(EntityKind.PREWRITE, start_ts, commit_ts, payload, ddl, "f", 0)


def commit(start_ts, commit_ts):
    return Entity(EntityKind.COMMIT, start_ts, commit_ts, b"", None, "f", 0)


def rollback(start_ts, commit_ts=0):
    return Entity(EntityKind.ROLLBACK, start_ts, commit_ts, b"", None, "f", 0)


def transaction(start_ts, commit_ts, payload=b"value", ddl=None):
    return Transaction(start_ts, commit_ts, payload, ddl)


class Writer:
    """Publishes as a writer does: transactions are in the ledger before the next entity."""

    def __init__(self, **state):
        self.ledger = TransactionLedger()
        self.pairing = Pairing(self.ledger, **state)

    def add(self, *entities):
        for entity in entities:
            self.pairing.add(entity)
        return self

    def publish(self):
        taken = self.pairing.take_resolved(self.pairing.resolved_ts)
        self.ledger.add(map(LedgerEntry.committed, taken))
        self.ledger.add(map(LedgerEntry.rolled_back, self.pairing.take_rolled_back()))
        return taken


def test_example_of_the_docstring():
    writer = Writer()
    steps = [
        (prewrite(1), 0, []),
        (prewrite(2), 0, []),
        (commit(2, 5), 1, []),
        (prewrite(3), 1, []),
        (commit(1, 6), 5, [transaction(2, 5)]),
        (rollback(3), 6, [transaction(1, 6)]),
        (commit(9, 9), 9, []),
    ]
    for entity, resolved_ts, taken in steps:
        writer.add(entity)
        assert writer.pairing.resolved_ts == resolved_ts
        assert writer.publish() == taken
    assert writer.pairing.pending() == []
    assert writer.pairing.buffered_bytes == 0


def test_sorted_by_commit_ts_then_start_ts():
    writer = Writer()
    for start_ts, commit_ts in [(4, 9), (3, 9), (1, 7), (2, 8)]:
        writer.add(prewrite(start_ts))
        writer.add(commit(start_ts, commit_ts))
    assert [(t.commit_ts, t.start_ts) for t in writer.publish()] == [(7, 1), (8, 2), (9, 3), (9, 4)]


def test_commit_before_its_prewrite():
    writer = Writer().add(prewrite(1), commit(2, 5), commit(1, 6))
    assert writer.pairing.resolved_ts == 4
    assert writer.publish() == []
    assert writer.add(prewrite(2)).publish() == [transaction(2, 5), transaction(1, 6)]


def test_rollback_before_its_prewrite():
    writer = Writer().add(rollback(1), prewrite(1), prewrite(2), commit(2, 5))
    assert writer.publish() == [transaction(2, 5)]
    assert writer.add(prewrite(1)).pairing.pending() == []


def test_ddl_comes_from_the_prewrite():
    writer = Writer().add(prewrite(1, b"", JOB), commit(1, 3))
    assert writer.publish() == [transaction(1, 3, b"", JOB)]


@pytest.mark.parametrize(
    "heartbeat", [commit(9, 9), prewrite(9, b"", commit_ts=9), rollback(9, commit_ts=9)]
)
def test_heartbeat(heartbeat):
    writer = Writer().add(prewrite(1), commit(1, 3), heartbeat, heartbeat)
    assert writer.pairing.resolved_ts == writer.pairing.max_commit_ts == 9
    assert writer.publish() == [transaction(1, 3)]
    assert writer.add(prewrite(10), heartbeat).pairing.resolved_ts == 9


def test_prewrite_without_changes_is_no_heartbeat():
    assert Writer().add(prewrite(9, b"")).pairing.unmatched_below(10)[0].start_ts == 9


def test_rollback_of_a_pull_stream_drops_its_prewrite():
    writer = Writer().add(prewrite(1), rollback(1, commit_ts=1))
    assert writer.pairing.pending() == []
    assert writer.pairing.take_rolled_back() == [1]


STREAM = [prewrite(1), prewrite(2), commit(2, 5), prewrite(3), rollback(3), commit(1, 6)]
RESULT = [transaction(2, 5), transaction(1, 6)]


@pytest.mark.parametrize("publishing", [True, False])
def test_every_entity_twice(publishing):
    writer, taken = Writer(), []
    for entity in STREAM:
        for _ in range(2):
            writer.add(entity)
            taken += writer.publish() if publishing else []
    assert taken + writer.publish() == RESULT
    assert writer.pairing.resolved_ts == 6


@pytest.mark.parametrize("start", range(len(STREAM)))
@pytest.mark.parametrize("publishing", [True, False])
def test_again_from_any_point(start, publishing):
    writer = Writer().add(*STREAM)
    taken = writer.publish() if publishing else []
    assert taken + writer.add(*STREAM[start:]).publish() == RESULT
    assert writer.pairing.pending() == []
    assert writer.pairing.resolved_ts == 6


CONFLICTS = [
    ([prewrite(1)], prewrite(1, b"other")),
    ([prewrite(1)], prewrite(1, b"value", JOB)),
    ([prewrite(1)], commit(1, 1)),
    ([commit(1, 3)], commit(1, 4)),
    ([commit(1, 3)], rollback(1)),
    ([rollback(1)], commit(1, 3)),
    ([prewrite(1), rollback(1)], commit(1, 3)),
    ([prewrite(1), commit(1, 3)], prewrite(1, b"other")),
    ([prewrite(1, b"", JOB), commit(1, 3)], prewrite(1, b"")),
    ([prewrite(1), commit(1, 3)], commit(1, 4)),
    ([prewrite(1), commit(1, 3)], rollback(1)),
]


@pytest.mark.parametrize(("before", "entity"), CONFLICTS)
@pytest.mark.parametrize("published", [True, False])
def test_another_content_under_a_known_transaction(before, entity, published):
    writer = Writer().add(*before)
    if published:
        writer.publish()
    pending, held = writer.pairing.pending(), writer.pairing.buffered_bytes
    with pytest.raises(TransactionConflictError) as caught:
        writer.add(entity)
    assert caught.value.start_ts == 1
    assert (writer.pairing.pending(), writer.pairing.buffered_bytes) == (pending, held)


def test_conflict_is_found_after_a_restart():
    pending = Writer().add(prewrite(1), commit(2, 5)).pairing.pending()
    for entity in (prewrite(1, b"other"), commit(2, 6), rollback(2)):
        with pytest.raises(TransactionConflictError):
            Writer(pending=pending).add(entity)


@pytest.mark.parametrize("before", [[], [prewrite(1)]])
def test_late_transaction(before):
    writer = Writer(resolved_ts=5).add(*before)
    with pytest.raises(TransactionConflictError, match="the store is readable up to 5 without it"):
        writer.add(commit(1, 5))


def test_late_is_what_was_published_not_what_could_have_been():
    writer = Writer().add(commit(9, 9))
    assert writer.pairing.resolved_ts == 9
    assert writer.add(prewrite(1), commit(1, 5)).publish() == [transaction(1, 5)]
    with pytest.raises(TransactionConflictError):
        writer.add(prewrite(2), commit(2, 6))


@pytest.mark.parametrize(
    "entities",
    [
        [prewrite(1), commit(1, 5)],
        [commit(1, 5), prewrite(1)],
        [prewrite(1), prewrite(1), commit(1, 5), commit(1, 5), prewrite(1)],
    ],
)
def test_what_the_base_holds_is_dropped(entities):
    writer = Writer(oldest_ts=5).add(*entities, prewrite(2), commit(2, 6))
    assert writer.publish() == [transaction(2, 6)]
    assert writer.add(*entities).publish() == []
    assert writer.pairing.pending() == []


def test_early_commit_of_a_transaction_known_otherwise():
    writer = Writer(oldest_ts=5).add(prewrite(1), commit(1, 6))
    for _ in range(2):
        with pytest.raises(TransactionConflictError):
            writer.add(commit(1, 4))
        writer.publish()


def test_commit_from_further_back_holds_what_is_not_yet_taken():
    writer = Writer(resolved_ts=2).add(commit(9, 9), commit(1, 5))
    assert writer.pairing.resolved_ts == 4
    assert writer.publish() == []
    assert writer.add(prewrite(1)).publish() == [transaction(1, 5)]
    with pytest.raises(TransactionConflictError):
        writer.add(commit(2, 8))
    assert writer.pairing.resolved_ts == 9


def test_vouch():
    writer = Writer().add(prewrite(1), prewrite(2), commit(1, 5), prewrite(7))
    with pytest.raises(UnmatchedPrewriteError) as caught:
        writer.pairing.vouch(9)
    assert (caught.value.until_ts, caught.value.start_ts, caught.value.count) == (9, 2, 2)
    assert writer.add(commit(2, 6)).pairing.resolved_ts == 6
    writer.pairing.vouch(7)
    assert writer.pairing.resolved_ts == 7
    assert writer.publish() == [transaction(1, 5), transaction(2, 6)]
    writer.pairing.vouch(3)
    assert writer.pairing.resolved_ts == 7


def test_unmatched_below():
    pairing = Writer().add(prewrite(4), commit(2, 5), prewrite(1)).pairing
    # 1 arrived after a commit at 5, so it commits above 5; 2 committed at 5.
    unmatched = [[p.start_ts for p in pairing.unmatched_below(ts)] for ts in (4, 5, 6)]
    assert unmatched == [[], [2, 4], [1, 2, 4]]


def test_only_what_is_resolved_can_be_taken():
    with pytest.raises(InternalError):
        Writer().add(prewrite(1), commit(1, 3)).pairing.take_resolved(4)


def test_taking_less_than_what_is_resolved():
    pairing = Writer().add(prewrite(1), commit(1, 3), prewrite(4), commit(4, 6)).pairing
    assert pairing.take_resolved(3) == [transaction(1, 3)]
    assert pairing.pending() == [PendingTransaction(4, 6, 0, b"value", None)]
    assert pairing.take_resolved(6) == [transaction(4, 6)]


def test_restart_keeps_what_waits_and_how_it_holds():
    entities = [commit(9, 9), prewrite(1), commit(2, 12), prewrite(10), commit(10, 14)]
    pairing = Writer().add(*entities).pairing
    again = Writer(
        resolved_ts=pairing.resolved_ts,
        streams=[pairing.max_commit_ts],
        pending=[PendingTransaction.from_bytes(each.to_bytes()) for each in pairing.pending()],
    )
    assert again.pairing.buffered_bytes == pairing.buffered_bytes > 0
    assert (again.pairing.resolved_ts, again.pairing.max_commit_ts) == (9, 14)
    again.add(commit(1, 11), prewrite(2))
    assert again.publish() == [transaction(1, 11), transaction(2, 12), transaction(10, 14)]


def test_restart_above_what_is_pending_is_refused():
    with pytest.raises(InternalError):
        Writer(resolved_ts=3, pending=[PendingTransaction(1, 3, 0, b"", None)])


def test_what_others_tell_does_not_say_how_far_the_input_has_come():
    """TiKV has the commit at 20 while a prewrite that commits at 15 has not arrived yet."""
    writer = Writer().add(prewrite(1), prewrite(2), commit(2, 5))
    writer.pairing.settle(1, 20)
    assert writer.pairing.resolved_ts == 5
    assert writer.publish() == [transaction(2, 5)]
    writer.add(prewrite(10), commit(10, 15), commit(1, 20))
    assert writer.publish() == [transaction(10, 15), transaction(1, 20)]


def test_what_others_tell_before_and_after_the_frames():
    writer = Writer()
    writer.pairing.settle(1, 20)
    writer.pairing.settle(3, 0)
    writer.add(prewrite(1), prewrite(3), commit(2, 30), prewrite(2))
    assert not writer.pairing.is_open(1)
    assert writer.publish() == [transaction(1, 20), transaction(2, 30)]
    writer.pairing.settle(1, 20)
    writer.add(commit(1, 20), rollback(3), commit(40, 40))
    assert writer.publish() == []
    for start_ts, commit_ts in [(1, 21), (1, 0), (3, 35)]:
        with pytest.raises(TransactionConflictError):
            writer.pairing.settle(start_ts, commit_ts)
    writer.add(prewrite(50))
    assert writer.pairing.is_open(50)
    with pytest.raises(TransactionConflictError, match="late"):
        writer.pairing.settle(50, 40)
    assert writer.pairing.is_open(50)


def test_the_primary_key_is_kept_and_completed():
    old = PendingTransaction(1, 0, 1, b"value", None)
    completed = Entity(EntityKind.PREWRITE, 1, 0, b"value", None, "f", 0, b"key")
    pairing = Writer(pending=[old]).add(completed).pairing
    (kept,) = pairing.pending()
    assert kept.primary == b"key"
    assert PendingTransaction.from_bytes(kept.to_bytes()) == kept


def test_a_prewrite_is_held_by_what_came_from_its_own_pump():
    """Its commit at 5 is sent to the other pump, after one at 10."""

    def at(stream, entity):
        return replace(entity, stream=stream)

    writer = Writer(streams=[0, 0])
    writer.add(at(1, prewrite(2)), at(1, commit(2, 10)), at(0, prewrite(1)))
    writer.add(at(0, commit(12, 12)))
    assert writer.pairing.resolved_ts == 1
    writer.add(at(1, commit(1, 5)))
    assert writer.publish() == [transaction(1, 5), transaction(2, 10)]
    assert writer.pairing.resolved_ts == 10
    writer.add(at(1, commit(20, 20)))
    assert writer.pairing.resolved_ts == 12


@pytest.mark.parametrize("arrived", [0, 1, 2])
def test_a_skipped_transaction(arrived):
    """Its messages are ignored, whether or not they have arrived; others are accepted."""
    writer = Writer().add(prewrite(1), commit(1, 3), prewrite(4))
    messages = [prewrite(5), commit(5, 7)]
    writer.add(*messages[:arrived])
    writer.pairing.skip(5)
    writer.add(*messages, commit(4, 8), prewrite(9), commit(9, 10))
    assert [each.start_ts for each in writer.publish()] == [1, 4, 9]
    assert writer.pairing.resolved_ts == 10
    assert writer.pairing.pending() == []
    assert writer.pairing.buffered_bytes == 0
    # The commit would be late, and the prewrite differs.
    writer.add(commit(5, 6), prewrite(5, b"other"))
    assert writer.publish() == []
