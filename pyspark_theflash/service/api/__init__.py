"""The calls of the API on one store, independent of how they arrive."""
