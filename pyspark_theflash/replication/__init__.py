"""The write path: binlog in, publications out."""
