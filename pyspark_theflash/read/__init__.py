"""Reads of a store: plans, work pushed down to the data, and SQL."""
