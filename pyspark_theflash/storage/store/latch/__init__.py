"""Latches: leases with fencing tokens on parts of a store, and their queue."""
