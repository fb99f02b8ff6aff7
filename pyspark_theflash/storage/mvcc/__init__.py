"""Versions of rows and which of them a snapshot sees. No I/O."""
