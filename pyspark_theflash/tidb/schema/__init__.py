"""Table and column definitions of TiDB, by schema version."""
