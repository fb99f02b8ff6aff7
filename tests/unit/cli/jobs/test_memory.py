"""Arrow's settings in a writer's process."""

import pyarrow as pa

from pyspark_theflash.cli.jobs.memory import use_system_memory


def test_arrow_takes_memory_from_the_c_library() -> None:
    before = pa.default_memory_pool()
    try:
        use_system_memory()
        held = pa.system_memory_pool().bytes_allocated()
        array = pa.array(range(1000))
        assert pa.system_memory_pool().bytes_allocated() - held >= array.nbytes
    finally:
        pa.set_memory_pool(before)
