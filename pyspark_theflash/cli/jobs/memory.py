"""Which allocator a writer's process uses for Arrow.

A writer makes and drops tens of megabytes with every publication. Of Arrow's allocators mimalloc,
its default, is the quickest for readers, but for this pattern it goes back to the kernel each time:
measured on 300 MB of binlog, a tenth of all CPU time and 90 MB of memory more than the C library's.
"""

import pyarrow as pa


def use_system_memory() -> None:
    """Have Arrow take memory from the C library, in all of this process from now on."""
    pa.set_memory_pool(pa.system_memory_pool())
