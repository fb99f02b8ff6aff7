"""Clients of PD and TiKV: regions, locks, key ranges, and the resolution of locks."""
