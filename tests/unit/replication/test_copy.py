"""Each kind of records in a manifest is either copied to another store, or known to be left."""

import importlib
import pkgutil
from collections.abc import Iterator

from pyspark_theflash import replication
from pyspark_theflash.replication import copy
from pyspark_theflash.storage import store
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.copied import COPY_KIND
from pyspark_theflash.storage.store.feed import MAIN, SCHEMA_KINDS, SIDE
from pyspark_theflash.storage.store.folder import IDENTITY_KIND
from pyspark_theflash.storage.store.partition import PARTITION_KIND
from pyspark_theflash.storage.store.progress import PROGRESS_KIND
from pyspark_theflash.storage.store.stopped import STOPPED_KIND

REFUSED = {"load", "base-load", STOPPED_KIND}
"""A store that has them is not copied, or not with its history."""
LEFT = {*transient.KINDS, IDENTITY_KIND, PARTITION_KIND, COPY_KIND}


def kinds() -> Iterator[str]:
    """Yield the kinds that modules of the store and of replication name."""
    for package in (store, replication):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            names = vars(importlib.import_module(module.name))
            yield from (names[name] for name in names if name.endswith("_KIND"))
    yield from (kind for feed in (MAIN, SIDE) for kind in (feed.schema_kind, feed.ledger_kind))


def test_every_kind_of_records() -> None:
    copied = {*copy.STATE_KINDS, *copy.WRITER_KINDS, *SCHEMA_KINDS, PROGRESS_KIND}
    assert not copied & (LEFT | REFUSED)
    assert {kind for kind in kinds() if isinstance(kind, str)} == copied | LEFT | REFUSED
