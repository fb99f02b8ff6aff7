"""SQL and partial aggregates over a snapshot, beside the data."""
