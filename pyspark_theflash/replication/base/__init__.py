"""Bases that are read in pieces: a TiDB over SQL."""
