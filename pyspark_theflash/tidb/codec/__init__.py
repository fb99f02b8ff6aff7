"""Conversion between Arrow columns and TiDB's binary encodings and text forms. No I/O."""
