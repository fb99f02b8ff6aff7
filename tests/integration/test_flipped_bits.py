"""A flipped bit anywhere in a store or a spool: the right answers or `CorruptionError`.

Never other rows, an older state or none. Outcomes are counted by file, because a flip in a file
that is not read has no effect.
"""

import logging
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    CorruptionError,
    StoreFormatError,
    UpkeepError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.source.frame import MAGIC
from pyspark_theflash.storage.engine.magic import file as file_module
from pyspark_theflash.storage.store.folder import DATA_FOLDER, FORMAT_FILE
from pyspark_theflash.storage.store.manifest import ACK, DATABASE
from tests.integration.test_failing_disk import (
    BANK,
    BANK_TIMES,
    compact,
    digests,
    open_engine,
    poll,
    prepare,
)
from tests.support.binlog_writer import frames
from tests.support.feeds import messages
from tests.support.progress import read_progress

FS = LocalFileSystem()
LOG, INDEX = f"{DATABASE}-wal", f"{DATABASE}-shm"
KINDS = (DATA_FOLDER, DATABASE, LOG, ACK, FORMAT_FILE)
LAST_TS = sorted({a.snapshot_ts for a in BANK.answers()})[2]
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
SLOW = pytest.mark.slow
Answers: TypeAlias = Mapping[TimeStamp, object]
_log = logging.getLogger(__name__)


def answers(store: Path) -> Answers:
    """Return the content of all tables at each readable timestamp."""
    progress = read_progress(store)
    assert progress is not None
    times = [ts for ts in (*BANK_TIMES, LAST_TS) if ts <= progress.resolved_ts]
    return {ts: digests(store, ts) for ts in times}


class Sample:
    """A store and more to come: as a crash leaves it, its last commits in SQLite's log only, and
    `settled`, all of them in the database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "copy"
        prepare(folder, BANK, *BANK_TIMES)
        with closing(open_engine(folder / "store")) as engine:
            poll(engine, folder, BANK)
            shutil.copytree(folder / "store", self.store)
        earlier = set(messages(BANK, BANK_TIMES[-1]))
        later = [m for m in messages(BANK, LAST_TS) if m not in earlier]
        (folder / "binlog" / "later").write_bytes(frames(later))
        self.files = self._content()
        read_progress(self.store)
        self.settled = self._content()

    def _content(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.store).as_posix(): path.read_bytes()
            for path in self.store.rglob("*")
            if path.is_file() and path.name != INDEX
        }

    def write_on(self) -> None:
        """All there is to come, and a compaction."""
        with closing(open_engine(self.store)) as engine:
            poll(engine, self.folder, BANK)
            compact(engine, self.store, FS, self.folder)

    def put_back(self, files: Mapping[str, bytes] | None = None) -> None:
        """The store as it was, or with these files."""
        shutil.rmtree(self.store)
        for name, data in (files or self.files).items():
            path = self.store / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def flips(self, kind: str, count: int) -> Iterator[tuple[str, int]]:
        """Put the store back with a bit of such a file flipped, again and again: (file, bit)."""
        rng = random.Random(count)
        files = self.settled if kind == DATABASE else self.files
        names = [name for name in sorted(files) if name.split("/")[0] == kind]
        for _ in range(count):
            (name,) = rng.choices(names, [len(files[name]) for name in names])
            bit = random_bit(rng, files[name])
            self.put_back({**files, name: flipped(files[name], bit)})
            yield name, bit


def random_bit(rng: random.Random, data: bytes) -> int:
    """Any, or as often one where there is something: most of a database's page is not."""
    used = [at for at, byte in enumerate(data) if byte]
    return 8 * rng.choice(rng.choice([range(len(data)), used])) + rng.randrange(8)


def bits_of_lengths(binlog: bytes) -> list[int]:
    """The bits of frame lengths: a wrong length must not be mistaken for the end of the file."""
    starts = [match.start() for match in re.finditer(re.escape(MAGIC_BYTES), binlog)]
    return [bit for at in starts for bit in range(8 * (at + 4), 8 * min(at + 12, len(binlog)))]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return Sample(tmp_path_factory.mktemp("sample"))


@contextmanager
def noticed(outcomes: Counter[str]) -> Iterator[None]:
    """Count whether the block raises because of the damage."""
    try:
        yield
        outcomes["right"] += 1
    except CorruptionError:
        outcomes["noticed"] += 1
    except UpkeepError as error:
        if error.first != CorruptionError.__name__:
            raise
        outcomes["noticed"] += 1
    except StoreFormatError:
        outcomes["a later format"] += 1


@pytest.mark.parametrize("count", [8, pytest.param(1000, marks=SLOW)])
@pytest.mark.parametrize(("kind", "pages"), [*((k, False) for k in KINDS), (DATA_FOLDER, True)])
def test_readers(
    kind: str, pages: bool, count: int, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `pages`, files are checked by their pages' checksums, as larger ones are."""
    if pages:
        monkeypatch.setattr(file_module, "WHOLE_CHECK_BYTES", 0)
    sample.put_back()
    right, outcomes = answers(sample.store), Counter[str]()
    assert list(right) == BANK_TIMES
    for name, bit in sample.flips(kind, count):
        with noticed(outcomes):
            assert answers(sample.store) == right, (name, bit)
    _log.info("%s, pages=%s: %s", kind, pages, dict(outcomes))
    assert outcomes["noticed"] >= count // 10


@pytest.mark.parametrize("count", [3, pytest.param(300, marks=SLOW)])
@pytest.mark.parametrize(
    ("kind", "pages"), [*((k, False) for k in (DATA_FOLDER, DATABASE, LOG)), (DATA_FOLDER, True)]
)
def test_a_writer(
    kind: str, pages: bool, count: int, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not propagate damage: reads after it are right or fail."""
    if pages:
        monkeypatch.setattr(file_module, "WHOLE_CHECK_BYTES", 0)
    sample.put_back()
    sample.write_on()
    right, written, read = answers(sample.store), Counter[str](), Counter[str]()
    assert list(right) == [*BANK_TIMES, LAST_TS]
    for name, bit in sample.flips(kind, count):
        with noticed(written):
            sample.write_on()
        with noticed(read):
            seen = answers(sample.store)
            assert seen.items() <= right.items(), (name, bit)
            assert BANK_TIMES[-1] in seen, (name, bit)
    _log.info("%s, pages=%s: written %s, read %s", kind, pages, dict(written), dict(read))
    assert written["noticed"] >= count // 10


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=SLOW)])
def test_a_spool(count: int, torn: bool, tmp_path: Path) -> None:
    """Neither opening it nor reading it loses or bends a message; a damaged tail is no torn one."""
    folder, rng, outcomes = tmp_path / "spool", random.Random(count), Counter[str]()
    sent = messages(BANK, BANK_TIMES[0])[-300:]
    with closing(Spool(folder, FS, file_bytes=20_000)) as spool:
        spool.check_cluster(70)
        for at in range(0, len(sent), 10):
            spool.append(sent[at : at + 10])
    files = {path: path.read_bytes() for path in sorted(folder.glob("*"))}
    if torn:
        files[max(files)] += frames(sent[:1])[:-3]
    binlogs = [path for path in files if path.name.startswith("binlog")]
    assert len(binlogs) > 2
    for _ in range(count):
        path = rng.choice([folder / ".cluster", rng.choice(binlogs), binlogs[-1], binlogs[-1]])
        bit = random_bit(rng, files[path])
        if path != folder / ".cluster" and rng.random() < 0.5:
            bit = rng.choice(bits_of_lengths(files[path]))
        for other, data in files.items():
            other.write_bytes(flipped(data, bit) if other == path else data)
        kind = "cluster" if path.name == ".cluster" else "binlog"
        try:
            with closing(Spool(folder, FS)) as spool:
                spool.check_cluster(70)
                read = [frame.payload for frame in spool.source().frames()]
            assert read == sent, (path.name, bit)
            outcomes[f"{kind} right"] += 1
        except (CorruptionError, ClusterMismatchError) as error:
            outcomes[f"{kind} {type(error).__name__}"] += 1
    _log.info("torn=%s: %s", torn, dict(outcomes))
    assert outcomes["binlog BinlogCorruptionError"] > count // 2
