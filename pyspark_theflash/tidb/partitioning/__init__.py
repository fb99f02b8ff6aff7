"""Partition of each row by TiDB's partitioning: RANGE, LIST, HASH, KEY."""
