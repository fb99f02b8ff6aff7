"""TheFlash API for C: `libtheflash.so`, which `python -m pyspark_theflash.cli.capi.build` makes."""
