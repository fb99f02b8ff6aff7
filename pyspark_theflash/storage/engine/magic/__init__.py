"""The default engine: Parquet files under the store's manifest."""
