"""C API: `libtheflash.so`, which `python -m pyspark_theflash.cli.capi.build` builds."""
