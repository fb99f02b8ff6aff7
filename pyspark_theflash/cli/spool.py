"""List the binlog messages that a store's writer cannot read, or skip a transaction.

The writer stops at a message that it cannot apply, and names the transaction's start_ts. With
START_TS, all messages of the transaction are listed; with `--skip` they are ignored from then on,
so that the writer continues without what the transaction changed: the store then differs from TiDB
permanently. `theflash status` lists skipped transactions. A running writer executes the command.

Messages are read from the spool after the store's position, and from the pending transactions in
the store. `kind` is "pending" for the latter.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pyspark_theflash.base.errors import OptionError, TheFlashError, UsageError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import add_json, timestamp
from pyspark_theflash.cli.place import opened_reader
from pyspark_theflash.cli.show import cell, print_json, print_table
from pyspark_theflash.net.address import is_address
from pyspark_theflash.replication.pairing.pending import PENDING_KIND, PendingTransaction
from pyspark_theflash.replication.pairing.spill import payload_bytes
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.merge import is_merged
from pyspark_theflash.replication.source.position import FilePosition
from pyspark_theflash.replication.source.prewrite import check_changes, check_message
from pyspark_theflash.replication.source.wire import decode_entities
from pyspark_theflash.storage.store.command import ResolveOrder, Verb
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress


@dataclass(frozen=True)
class _Message:
    """A message of a transaction; `fault` is the reason why it cannot be read, if any."""

    start_ts: int
    commit_ts: int
    kind: str
    bytes: int
    file: str
    offset: int
    fault: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `spool`."""
    add_command(parser, SHORT_MS)
    add_json(parser)
    parser.add_argument(
        "start_ts", nargs="?", type=timestamp, metavar="START_TS", help="list this transaction"
    )
    parser.add_argument("--skip", action="store_true", help="ignore the transaction's messages")
    parser.add_argument(
        "--spool",
        type=Path,
        metavar="FOLDER",
        help="the writer's --spool, or files of a --source file: (default: STORE/spool)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line per message, or skip a transaction."""
    if is_address(arguments.store):
        raise UsageError("spool needs the store's folder, not a server's address")
    if arguments.skip and arguments.start_ts is None:
        raise UsageError("--skip needs the START_TS of a transaction")
    store = Path(arguments.store)
    with opened_reader(store) as engine:
        view = engine.read([PENDING_KIND, PROGRESS_KIND])
    folder = arguments.spool or store / "spool"
    messages = [
        message
        for message in (*_pending(view), *_spooled(folder, view))
        if arguments.start_ts in (None, message.start_ts)
        and (message.fault or arguments.start_ts is not None)
    ]
    if arguments.skip:
        if not messages:
            reason = f"{arguments.start_ts} has no message in {folder}, and none that is pending"
            raise OptionError("start_ts", reason)
        order = ResolveOrder(arguments.start_ts, TimeStamp(0))
        return run_command(arguments, Verb.SKIP, order.to_text())
    rows = [asdict(message) for message in messages]
    if arguments.json:
        print_json({"messages": rows})
    else:
        header = list(_Message.__annotations__)
        print_table(header, ([cell(row[name]) for name in header] for row in rows))
    return 0


def _pending(view: View) -> Iterator[_Message]:
    for key, body in sorted(view.of_kind(PENDING_KIND).items()):
        pending = PendingTransaction.from_bytes(body)
        payload = payload_bytes(pending.payload or b"")
        times = pending.start_ts, pending.commit_ts
        yield _Message(*times, "pending", len(payload), key, 0, _fault(check_changes, payload))


def _spooled(folder: Path, view: View) -> Iterator[_Message]:
    """Yield the messages of a spool, or of binlog files, after the position of the store."""
    progress = Progress.of(view)
    position = progress.position if progress else None
    if not folder.exists():
        return
    names = {path.name for path in ([folder] if folder.is_file() else folder.iterdir())}
    is_here = position is not None and not is_merged(position)
    after = position if is_here and FilePosition.parse(position or "").name in names else None
    for frame in FileSource(folder).frames(after):
        place, size_bytes = (frame.file, frame.offset), len(frame.payload)
        fault = _fault(check_message, frame.payload, frame.file)
        try:
            last = decode_entities(frame.payload, *place)[-1]
        except TheFlashError:
            yield _Message(0, 0, "unknown", size_bytes, *place, fault)
        else:
            kind = last.kind.name.lower()
            yield _Message(last.start_ts, last.commit_ts, kind, size_bytes, *place, fault)


def _fault(check: Callable[..., object], *arguments: object) -> str:
    try:
        check(*arguments)
    except TheFlashError as error:
        return str(error)
    return ""
