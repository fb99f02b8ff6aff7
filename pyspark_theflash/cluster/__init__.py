"""Clients of PD and TiKV, lock and write records, key ranges, and lock resolution."""
