"""SQL queries over the tables of a snapshot, executed by DuckDB."""
