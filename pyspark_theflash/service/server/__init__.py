"""Servers of the API: frames, gRPC and Arrow Flight."""
