"""Mutated inputs for every parser; `python -m tests.fuzz` runs as many as it is told."""
