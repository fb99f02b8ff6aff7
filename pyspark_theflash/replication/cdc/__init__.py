"""Replication from TiKV's change feed (ChangeData): streams of regions, and their writer."""
