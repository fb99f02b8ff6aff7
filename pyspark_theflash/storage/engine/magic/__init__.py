"""The default engine: Parquet files and the store's manifest."""
