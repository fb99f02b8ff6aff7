"""Latches: leases with fencing tokens on parts of a store, and the queue that grants them."""
