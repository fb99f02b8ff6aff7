"""Sources of binlog messages: files and pumps."""
