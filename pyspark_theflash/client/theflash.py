"""Connect to a store: the import path of earlier versions for `pyspark_theflash.connect`."""

from pyspark_theflash.service.client.theflash import TheFlash, connect

__all__ = ["TheFlash", "connect"]
