"""Contents of a binlog: frames, messages, changes, positions; and records of them in a store."""

import gzip
import io
import random
from pathlib import Path
from typing import Any

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.ledger import (
    LedgerEntry,
    TransactionLedger,
    pack_entries,
    pruned_entries,
)
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pairing.pending import PendingTransaction
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.frame import FrameReader, encode_frame
from pyspark_theflash.replication.source.position import FilePosition
from pyspark_theflash.replication.source.prewrite import parse_prewrite
from pyspark_theflash.replication.source.stream import GzipStream, PlainStream
from pyspark_theflash.replication.source.wire import decode_entities, encode_heartbeat, is_probe
from tests.fuzz.mutate import TEXT_WORDS, bytes_like
from tests.fuzz.run import Target
from tests.fuzz.targets.captured import frames, prewrite_values, steps


def binlog_frames(_: Path) -> Target:
    seeds = [frames()[:2000], frames()[:400], _framed(b"", b"a", b"bc"), b""]

    def parse(data: bytes) -> None:
        for _ in FrameReader(_plain(data), "fuzz"):
            pass

    return Target(seeds, bytes_like(seeds), parse)


def gzipped_binlog(_: Path) -> Target:
    named = io.BytesIO()
    with gzip.GzipFile("name", "wb", fileobj=named) as file:
        file.write(_framed(b"a"))
    zipped = gzip.compress(frames()[:2000])
    # The second inflates to a thousand times its size.
    seeds = [zipped, gzip.compress(_framed(bytes(1 << 20))), zipped[:-8] * 2, named.getvalue()]
    seeds.append(gzip.compress(_framed(b"a")) + gzip.compress(_framed(b"b")))

    def parse(data: bytes) -> None:
        for _ in FrameReader(GzipStream(_plain(data), "fuzz"), "fuzz"):
            pass

    return Target([seeds[0], *seeds[3:]], bytes_like(seeds), parse)


def binlog_message(_: Path) -> Target:
    seeds = [p for step in steps()[:50] for p in step.payloads]
    seeds.append(encode_heartbeat(TimeStamp(9)))

    def parse(data: bytes) -> None:
        is_probe(data)
        decode_entities(data, "fuzz", 0)
        decode_entities(data, "fuzz", 0, merged=True)

    return Target(seeds, bytes_like(seeds), parse)


def prewrite_value(_: Path) -> Target:
    seeds = prewrite_values()
    return Target(seeds, bytes_like(seeds), parse_prewrite)


def pairing(_: Path) -> Target:
    """Frames with right checksums and any content, through the pairing."""
    transactions = [step.payloads for step in steps()[:60] if len(step.payloads) == 2]
    mutate_message = bytes_like([p for pair in transactions for p in pair])

    def mutate(rng: random.Random) -> bytes:
        messages = list(rng.choice(transactions)) * 2
        messages[rng.randrange(4)] = mutate_message(rng)
        return _framed(*messages)

    def parse(data: bytes) -> None:
        pairing = Pairing(TransactionLedger())
        for at, payload in FrameReader(_plain(data), "fuzz"):
            for entity in decode_entities(payload, "fuzz", at):
                pairing.add(entity)
        for transaction in pairing.take_resolved(pairing.resolved_ts):
            transaction.digest()
        for pending in pairing.pending():
            PendingTransaction.from_bytes(pending.to_bytes())

    return Target([_framed(*pair) for pair in transactions], mutate, parse)


def pending_transaction(_: Path) -> Target:
    entities = [e for step in steps() for e in step.entities if e.kind is EntityKind.PREWRITE]
    seeds = [
        PendingTransaction(e.start_ts, TimeStamp(0), e.start_ts, e.payload[:200], e.ddl).to_bytes()
        for e in entities[:100]
    ]
    return Target(
        seeds, bytes_like(seeds), lambda data: PendingTransaction.from_bytes(data).to_bytes()
    )


def ledger_record(_: Path) -> Target:
    entries = [LedgerEntry(TimeStamp(n), TimeStamp(n + 1), bytes(range(16))) for n in range(20)]
    seeds = [pack_entries(entries), pack_entries(entries[3:4]), b""]

    def parse(data: bytes) -> None:
        ledger = TransactionLedger()
        ledger.add_packed(data)
        for at in range(0, len(data), 32):
            ledger.lookup(TimeStamp(int.from_bytes(data[at : at + 8], "little")))
        pruned_entries([data], TimeStamp(7), 8)
        ledger.forget(TimeStamp(7))

    return Target(seeds, bytes_like(seeds), parse)


def file_position(_: Path) -> Target:
    seeds = [b"binlog-0000000000000007:1234", b"a:0", b"a:b:9223372036854775807"]
    return Target(
        seeds,
        bytes_like(seeds, TEXT_WORDS),
        lambda data: str(FilePosition.parse(data.decode("utf-8", "replace"))),
    )


def spool_file(folder: Path) -> Target:
    """The last file of a spool and its cluster id file, opened after a crash."""
    cluster = b"7294218357219\n"
    small = _framed(*(p for step in steps()[:3] for p in step.payloads))
    seeds = [cluster[:-1] + b"\n" + small, b"7\n" + _framed(b"a", b"bc"), b"\n"]
    spool_folder = folder / "spool"
    Spool(spool_folder, LocalFileSystem()).close()
    first = spool_folder / "binlog-0000000000000001"
    first.write_bytes(_framed(b"first"))

    def parse(data: bytes) -> None:
        cluster_id, _, content = data.partition(b"\n")
        (spool_folder / ".cluster").write_bytes(cluster_id)
        (spool_folder / "binlog-0000000000000002").write_bytes(content)
        spool = Spool(spool_folder, _Unsynced())
        try:
            if cluster_id:
                spool.cluster_id()
            for _ in spool.source().frames():
                pass
        finally:
            spool.close()

    return Target(seeds, bytes_like(seeds), parse)


def binlog_folder(folder: Path) -> Target:
    """A folder of pump's files, read from a stored position."""
    messages = [p for step in steps()[:4] for p in step.payloads]
    content = _framed(*messages)
    end = len(_framed(messages[0]))
    seeds = [f"a:{end}\n".encode() + content, b"a:0\n" + content, b"b.gz:0\n" + content]
    files = folder / "binlogs"
    files.mkdir()
    (files / "b.gz").write_bytes(gzip.compress(content))

    def parse(data: bytes) -> None:
        position, _, rest = data.partition(b"\n")
        (files / "a").write_bytes(rest)
        source = FileSource(files)
        for _ in source.entities(position.decode("utf-8", "replace")):
            pass

    return Target(seeds, bytes_like(seeds), parse)


class _Unsynced(LocalFileSystem):
    """Syncs nothing: a disk takes longer for that than a parser for its input."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def open_append(self, path: Path) -> Any:
        file = super().open_append(path)
        file.sync = lambda: None  # type: ignore[method-assign]
        return file

    def sync_folder(self, path: Path) -> None:
        pass


def _framed(*payloads: bytes) -> bytes:
    return b"".join(piece for payload in payloads for piece in encode_frame(payload))


def _plain(data: bytes) -> PlainStream:
    return PlainStream(io.BytesIO(data), "fuzz", len(data))
