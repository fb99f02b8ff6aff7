"""Times and order of the comparisons with TiKV, and their records."""

from collections.abc import Sequence, Set
from concurrent.futures import Future

import pytest

from pyspark_theflash.base.errors import (
    PDUnavailableError,
    TableNotFoundError,
    TheFlashError,
)
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.cluster.watch import WatchedKeys
from pyspark_theflash.replication.cdc.imports import (
    CYCLE_MS,
    IMPORT_PREFIX,
    RETRY_MS,
    ImportChecks,
)
from pyspark_theflash.replication.load.checking import Answer, CheckedTable, TablesToCheck
from pyspark_theflash.storage.store.compared import (
    COMPARED_KIND,
    IMPORTS_KIND,
    compared_of,
    compared_record,
    imports_record,
    imports_revision,
)
from pyspark_theflash.storage.store.manifest import Generation, Record, View
from tests.support.manual_clock import ManualClock

KEY = IMPORT_PREFIX + "restore/1"
NAMES = ("d.empty", "d.small", "d.large")
IDS = {name: TableID(number) for number, name in enumerate(NAMES, 1)}


class Job:
    """Checks with answers that a test gives, and what they have written."""

    def __init__(self, *records: Record, share: float = 0.0) -> None:
        self.keys: WatchedKeys | None = WatchedKeys(5)
        self.clock = ManualClock()
        self.resolved_ts, self.start_ts = TimeStamp(100), TimeStamp(10)
        self.records: dict[tuple[str, str], Record] = {(r.kind, r.key): r for r in records}
        self.asides: list[tuple[str, int, int]] = []
        self.failure: TheFlashError | None = None
        self.questions: list[str | None] = []
        self._pending: Future[Answer] | None = None
        self.checks = ImportChecks(self.view, lambda: self.keys, self, self.clock, share)

    @property
    def view(self) -> View:
        kinds: dict[str, dict[str, bytes]] = {COMPARED_KIND: {}, IMPORTS_KIND: {}}
        for record in self.records.values():
            kinds[record.kind][record.key] = record.body
        return View(Generation(1), kinds)

    def request(self, table: str | None) -> "Future[Answer]":
        self.questions.append(table)
        self._pending = Future()
        return self._pending

    def record(self, records: Sequence[Record]) -> None:
        if self.failure is not None:
            raise self.failure
        self.records |= {(record.kind, record.key): record for record in records}

    def set_aside(self, table: str, ids: Set[PhysicalTableID], ts: TimeStamp, reason: str) -> None:
        if self.failure is not None:
            raise self.failure
        assert "differ from TiKV's" in reason
        self.asides += [(table, i, ts) for i in ids]

    def poll(self) -> None:
        self.checks.poll(self)

    def answer(self, answer: Answer) -> None:
        """Answer the pending question, and poll."""
        assert self._pending is not None
        self._pending.set_result(answer)
        self._pending = None
        self.poll()

    def list(self, ts: int = 100, names: Sequence[str] = NAMES) -> None:
        assert self.questions[-1] is None
        self.answer(TablesToCheck(TimeStamp(ts), tuple(names)))

    def equal(self, ts: int = 100) -> None:
        name = self.questions[-1]
        assert name is not None
        self.answer(CheckedTable(IDS[name], TimeStamp(ts), 3, ()))

    @property
    def revision(self) -> int | None:
        return imports_revision(self.view)


@pytest.fixture
def job() -> Job:
    return Job(imports_record(5))


def test_nothing_is_compared_without_imports(job: Job) -> None:
    for revision in (5, 6, 9):
        job.keys = WatchedKeys(revision)
        job.poll()
        assert (job.questions, job.revision) == ([], revision)
    job.keys = None
    job.poll()
    job.clock.now_ms += 10 * CYCLE_MS
    job.poll()
    assert job.questions == []
    assert job.checks.pass_ms is None


def test_all_tables_are_compared_when_an_import_begins_and_when_it_ends(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    for keys in (WatchedKeys(7, 7, frozenset({KEY})), WatchedKeys(9, 9)):
        job.keys = keys
        job.poll()
        job.list()
        for _ in NAMES:
            assert job.revision != keys.revision
            job.equal()
        assert (job.questions, job.revision) == ([None, *NAMES], keys.revision)
        job.questions.clear()
    assert caplog.text.count(KEY) == 1
    assert compared_of(job.view) == {1: 100, 2: 100, 3: 100}
    assert job.checks.rows == 18
    assert job.checks.pass_ms == job.clock.wall_ms()


def test_a_table_that_differs_is_set_aside_from_when_it_was_equal(job: Job) -> None:
    job = Job(imports_record(5), compared_record(IDS["d.small"], TimeStamp(60)))
    job.keys = WatchedKeys(9, 9)
    job.poll()
    job.list()
    differences = ((PhysicalTableID(21), "a"), (PhysicalTableID(22), "b"))
    job.answer(CheckedTable(IDS["d.empty"], TimeStamp(100), 3, differences[:1]))
    job.answer(CheckedTable(IDS["d.small"], TimeStamp(100), 3, differences))
    job.equal()
    assert job.asides == [("d.empty", 21, 10), ("d.small", 21, 61), ("d.small", 22, 61)]
    assert compared_of(job.view) == {2: 60, 3: 100}
    assert job.revision == 9


def test_comparisons_wait_until_the_store_has_what_the_import_wrote(job: Job) -> None:
    job.keys = WatchedKeys(9, 9)
    job.poll()
    job.list(ts=150)
    job.poll()
    assert job.questions == [None]
    job.resolved_ts = TimeStamp(150)
    job.poll()
    assert job.questions == [None, "d.empty"]


def test_a_change_meanwhile_begins_again(job: Job) -> None:
    job.keys = WatchedKeys(9, 9)
    job.poll()
    job.list()
    job.keys = WatchedKeys(12, 12)
    job.equal()
    assert job.questions == [None, "d.empty", None]
    job.list(ts=100)
    for _ in NAMES:
        job.equal()
    assert job.revision == 12
    assert job.questions[2:] == [None, *NAMES]


def test_an_interrupted_comparison_is_done_again() -> None:
    before = Job(imports_record(5))
    before.keys = WatchedKeys(9, 9)
    before.poll()
    before.list()
    before.equal()
    after = Job(*before.records.values())
    after.keys = WatchedKeys(9, 9)
    after.poll()
    assert after.questions == [None]


def test_a_store_without_a_revision_is_compared() -> None:
    job = Job()
    job.keys = WatchedKeys(9, 9)
    job.poll()
    job.list(names=())
    assert (job.questions, job.revision) == ([None], 9)


def test_errors_are_retried_and_tables_that_cannot_be_read_are_left_out(job: Job) -> None:
    job.keys = WatchedKeys(9, 9)
    job.poll()
    error = PDUnavailableError("PD", "gone")
    job.answer(error)
    job.poll()
    assert job.questions == [None]
    job.clock.now_ms += RETRY_MS
    job.poll()
    job.list()
    job.answer(TableNotFoundError("d.empty", 100))
    job.answer(error)
    assert job.questions[2:] == ["d.empty", "d.small"]
    job.clock.now_ms += RETRY_MS
    job.poll()
    for name in ("d.large", "d.small"):
        assert job.questions[-1] == name
        assert job.revision == 5
        job.equal()
    assert job.revision == 9


def test_a_publication_that_fails_is_repeated(job: Job) -> None:
    job.keys = WatchedKeys(9, 9)
    job.poll()
    job.list()
    job.failure = PDUnavailableError("disk", "full")
    difference = (PhysicalTableID(21), "a")
    with pytest.raises(PDUnavailableError):
        job.answer(CheckedTable(IDS["d.empty"], TimeStamp(100), 3, (difference,)))
    assert job.asides == []
    job.failure = None
    job.poll()
    assert job.asides == [("d.empty", 21, 10)]
    assert job.questions[-1] == "d.small"


def test_in_the_background_a_share_of_the_time_is_used() -> None:
    job = Job(imports_record(5), share=0.1)
    job.poll()
    assert job.questions == []
    job.clock.now_ms += CYCLE_MS
    job.poll()
    job.list()
    for number in range(3):
        assert len(job.questions) == 2 + number
        job.clock.now_ms += 2000
        job.equal()
        job.clock.now_ms += 17_999
        job.poll()
        assert len(job.questions) == 2 + number
        job.clock.now_ms += 1
        job.poll()
    assert (job.questions, job.revision) == ([None, *NAMES], 5)
    job.clock.now_ms += CYCLE_MS
    job.poll()
    assert job.questions == [None, *NAMES, None]


def test_an_import_interrupts_the_background() -> None:
    job = Job(imports_record(5), share=0.1)
    job.clock.now_ms += CYCLE_MS
    job.poll()
    job.list()
    job.clock.now_ms += 2000
    job.equal()
    job.keys = WatchedKeys(9, 9)
    job.poll()
    assert job.questions == [None, "d.empty", None]
