"""A client of TiKV: regions, stores, snapshot reads, transaction status, read index."""
