"""TheFlash API for C: `libtheflash.so`, which `python -m pyspark_theflash.capi.build` makes."""
