"""Compaction, garbage collection, commands and orphans, handled by the writer beside ingest."""
