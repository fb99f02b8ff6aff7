"""The calls of the API on one store, independent of the transport."""
