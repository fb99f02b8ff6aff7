"""A client of TiKV: regions and their stores, snapshot reads, transactions' ends, read indices."""
