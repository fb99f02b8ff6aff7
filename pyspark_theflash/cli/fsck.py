"""Read all of a store and report damage.

Nothing is changed; readers and the writer can continue. The exit status is 1 if a data file is
damaged, and 6 if the manifest is, because nothing else can be checked then.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from typing import Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.arguments import add_store
from pyspark_theflash.cli.jobs.ticker import Ticker, ticking
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import EngineReader
from pyspark_theflash.storage.store.aside import asides_texts, check_asides
from pyspark_theflash.storage.store.catalog import feed_history
from pyspark_theflash.storage.store.feed_check import check_feeds
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable

DAMAGED: Final = 1
LEASE_TTL_MS: Final = 6 * 3_600_000
"""Files that compaction replaces meanwhile are retained for at most this time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fsck`."""
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per damage, then a summary."""
    fs, clock = LocalFileSystem(), SystemClock()
    with closing(open_manifest(arguments.store, fs)) as manifest:
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
        leases = LeaseTable(manifest, clock)
        leases.living()  # raises if a latch is damaged
        lease = leases.take(TimeStamp(0), LEASE_TTL_MS, LatchKind.ADMIN)
        try:
            with (
                closing(registry.open_reader(arguments.store, identity, fs, clock)) as engine,
                ticking("reading all files", clock) as ticker,
            ):
                damages = _check(engine, tuple(manifest.head().sums), ticker)
        finally:
            leases.release(lease)
    return DAMAGED if damages else 0


def _check(engine: EngineReader, kinds: Sequence[str], ticker: Ticker) -> int:
    view = engine.read(kinds)
    damages = 0
    asides = check_asides(view, feed_history(view))
    for damage in chain(check_feeds(view), asides, engine.check(view)):
        ticker.print(str(damage))
        damages += 1
    for text in asides_texts(view):
        ticker.print(f"no damage: {text}")
    records = sum(map(len, view.records.values()))
    verdict = f"{damages} damaged" if damages else "all sound"
    print(f"checked {records} records of generation {view.generation} and their files: {verdict}")
    return damages
