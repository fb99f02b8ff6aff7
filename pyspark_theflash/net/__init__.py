"""Addresses, listening sockets and gRPC channels."""
