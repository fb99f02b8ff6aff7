"""Compaction, garbage collection, commands and orphans: work that a writer does beside ingest."""
