"""The memory that a piece of code allocates, by Python, NumPy and Arrow."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

_POOLS: list[pa.MemoryPool] = []


@dataclass
class Peak:
    """The most memory in use at a time; set when the block ends."""

    size_bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the block."""
    peak, pool = Peak(), pa.default_memory_pool()
    proxy = pa.proxy_memory_pool(pool)
    # Arrays that outlive the block are freed by it.
    _POOLS.append(proxy)
    pa.set_memory_pool(proxy)
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.size_bytes = tracemalloc.get_traced_memory()[1] + proxy.max_memory()
        tracemalloc.stop()
        pa.set_memory_pool(pool)
