"""The binlog of a cluster with several pumps: what one pump would have, spread over folders.

Each half of a transaction goes to a pump of its own, so most prewrites and commits are apart.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import PumpUnavailableError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication.source.event import Entity, EntitySource
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.merge import MergedSource, places_of
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support import feeds
from tests.support.binlog_writer import frame, heartbeat, merged
from tests.support.fake_pd import FakePD
from tests.support.fake_pump import FakePump
from tests.support.workloads import check_answers, workload

BANK = workload("bank")
END_TS = sorted({answer.snapshot_ts for answer in BANK.answers()})[6]
ANSWERS = [answer for answer in BANK.answers() if answer.snapshot_ts <= END_TS]
MESSAGES = feeds.messages(BANK, END_TS)[:-1]
PUMPS = ("one", "two", "three")


def spread(rng: random.Random) -> dict[str, list[bytes]]:
    """The messages at pumps; a few at two, as where TiDB has sent one again."""
    by_pump: dict[str, list[bytes]] = {name: [] for name in PUMPS}
    for message in MESSAGES:
        chosen = rng.sample(PUMPS, 2 if rng.random() < 0.02 else 1)
        for name in chosen:
            by_pump[name].append(message)
    for content in by_pump.values():
        content.append(heartbeat(END_TS))
    return by_pump


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    assert main(["init", str(path)]) == 0
    return path


def write(folder: Path, contents: dict[str, list[bytes]]) -> list[str]:
    """Files of the pumps; the options that name them."""
    options = []
    for name, content in contents.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "binlog-1").write_bytes(b"".join(map(frame, content)))
        options += ["--source", f"file:{folder / name}"]
    return options


def writer(store: Path, options: Sequence[str]) -> int:
    schema = ["--schema", f"file:{BANK.schema}", "--base", str(BANK.base)]
    return main(["writer", str(store), *options, *schema])


def status(store: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main(["status", str(store), "--json"]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_folders_of_three_pumps(store: Path, tmp_path: Path) -> None:
    options = write(tmp_path, spread(random.Random(1)))
    assert writer(store, [*options, "--once"]) == 0
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    # Without a part of it, the input is not complete.
    other = tmp_path / "other"
    assert main(["init", str(other)]) == 0
    assert writer(other, [*options[:4], "--once", "--until-ts", str(END_TS)]) == 4
    assert writer(other, [*options, *options[:2], "--once"]) == 2
    server = ["--source", f"pump-server:unix:{tmp_path}/s", "--cluster-id", "1"]
    assert writer(other, [*options, *server]) == 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pumps_with_delays_and_restarts(store: Path, tmp_path: Path, seed: int) -> None:
    """Each pump's file grows at its own pace, and the writer is restarted."""
    rng = random.Random(seed)
    contents = spread(rng)
    shown = dict.fromkeys(PUMPS, 0)
    fs, clock = LocalFileSystem(), SystemClock()
    engine = registry.open_engine(store, read_identity(store, fs), fs, clock)
    try:
        schema, following, reached = FileSchema(BANK.schema), None, 0
        while any(shown[name] < len(contents[name]) for name in PUMPS):
            name = rng.choice(PUMPS)
            shown[name] = min(shown[name] + rng.randrange(600), len(contents[name]))
            write(tmp_path, {each: contents[each][: shown[each]] for each in PUMPS})
            if following is None or rng.random() < 0.2:
                following = Writer(engine, schema, streams=PUMPS)
                if not reached:
                    assert BANK.base is not None
                    following.load_base(BANK.base)
            parts = {each: FileSource(tmp_path / each) for each in PUMPS}
            following.poll(MergedSource(parts, lambda: None))
            assert following.resolved_ts >= reached
            reached = following.resolved_ts
        assert following is not None
        assert following.resolved_ts == END_TS
        assert {p.seen_ts for p in places_of(following.position)} == {END_TS}
    finally:
        engine.close()
    assert check_answers(store, ANSWERS) == len(ANSWERS)


def whole_transactions() -> dict[str, list[bytes]]:
    """The messages of two of tidb-binlog's pumps: commits that contain their prewrites."""
    decoded = [binlog_pb2.Binlog.FromString(message) for message in MESSAGES]
    values = {b.start_ts: b.prewrite_value for b in decoded if b.tp == binlog_pb2.Prewrite}
    by_pump: dict[str, list[bytes]] = {"a": [], "b": []}
    for binlog in sorted(decoded, key=lambda binlog: binlog.commit_ts):
        if binlog.tp == binlog_pb2.Commit:
            name = "ab"[binlog.start_ts // 7 % 2]
            by_pump[name].append(merged(binlog.start_ts, binlog.commit_ts, values[binlog.start_ts]))
    return by_pump


def test_a_silent_pump_holds_and_is_shown(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = whole_transactions()
    full = {name: [*content, heartbeat(END_TS)] for name, content in contents.items()}
    half = contents["b"][: len(contents["b"]) // 2]
    half_ts = binlog_pb2.Binlog.FromString(half[-1]).commit_ts
    with FakePump(1, full["a"]) as a, FakePump(1, half) as b:
        options = ["--source", f"pump:{a.address}", "--source", f"pump:{b.address}"]
        options += ["--cluster-id", "1", "--interval", "0.05"]
        # It sends nothing: nothing above its newest commit is resolved, and status shows it.
        assert writer(store, [*options, "--until-ts", str(half_ts)]) == 0
        shown = status(store, capsys)
        assert shown["resolved_ts"] == half_ts
        sources = shown["sources"]
        assert isinstance(sources, list)
        assert {source["name"]: source["seen_ts"] for source in sources} == {
            f"pump:{a.address}": END_TS,
            f"pump:{b.address}": half_ts,
        }
        # One of the two alone would be half of the transactions.
        assert writer(store, [*options[:2], "--cluster-id", "1", "--once"]) == 2
        assert "was followed before" in capsys.readouterr().err
        b.messages[:] = full["b"]
        assert writer(store, [*options, "--until-ts", str(END_TS)]) == 0
        assert main(["status", str(store)]) == 0
        assert f"pump:{b.address} is at " in capsys.readouterr().out
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    # Both have ended, and all their messages are applied.
    left = write(tmp_path, {"one": [heartbeat(END_TS + 1)]})
    gone = ["--source", f"gone:{options[1]}", "--source", f"gone:{options[3]}"]
    assert writer(store, [*left, *gone, "--until-ts", str(END_TS + 1)]) == 0
    assert writer(store, [*left, "--once"]) == 0


def test_a_pump_that_is_not_followed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = whole_transactions()
    with FakePD(1) as pd, FakePump(pd.cluster_id, contents["a"]) as a:
        node = {"nodeId": "b", "host": "10.0.0.9:8250", "state": "online"}
        pd.keys[b"/tidb-binlog/v1/pumps/b"] = json.dumps(node).encode()
        options = ["--source", f"pump:{a.address}", "--pd", pd.address]
        assert writer(store, [*options, "--once"]) == 7
        assert "pump 10.0.0.9:8250 is online" in capsys.readouterr().err
        options += ["--source", "pump:127.0.0.1:1"]
        assert writer(store, [*options, "--once"]) == 7
        assert "pump 10.0.0.9:8250 is online" in capsys.readouterr().err


class Away:
    """A pump that does not answer."""

    position: str | None = None

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        yield from self._next()

    def _next(self) -> Iterator[Entity]:
        raise PumpUnavailableError("pump", "is away")


def test_a_pump_that_is_away(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A writer that follows reads the others on; one that is to apply it all fails."""
    write(tmp_path, {"one": MESSAGES})
    parts: dict[str, EntitySource] = {"one": FileSource(tmp_path / "one"), "away": Away()}
    fs, clock = LocalFileSystem(), SystemClock()
    engine = registry.open_engine(store, read_identity(store, fs), fs, clock)
    try:
        following = Writer(engine, FileSchema(BANK.schema), streams=tuple(parts))
        with pytest.raises(PumpUnavailableError):
            following.run_once(MergedSource(parts, lambda: None), until_ts=END_TS)
        following = Writer(engine, FileSchema(BANK.schema), streams=tuple(parts))
        assert following.poll(MergedSource(parts, lambda: None)) == len(MESSAGES)
    finally:
        engine.close()
    shown = status(store, capsys)
    assert shown["resolved_ts"] == shown["oldest_ts"]
    assert shown["pending_transactions"]
    assert main(["status", str(store)]) == 0
    text = "away is at its beginning, position none: pump is not available: is away"
    assert text in capsys.readouterr().out
