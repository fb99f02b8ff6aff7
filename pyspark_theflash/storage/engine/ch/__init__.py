"""The engine *ch*: each published batch is an immutable set of MergeTree parts of ClickHouse."""
