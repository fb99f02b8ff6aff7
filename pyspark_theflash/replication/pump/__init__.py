"""Pump: the server that TiDB writes its binlog to, and its spool on disk."""
