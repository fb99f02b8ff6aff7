"""What this package serves: a store to its readers, and a pump that TiDB writes its binlog to."""
