"""TiDB's SQL expressions over Arrow columns: generated columns and partition functions."""
