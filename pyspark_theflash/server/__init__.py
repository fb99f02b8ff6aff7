"""What this package serves: a pump that TiDB writes its binlog to."""
