"""Latches: leases on a store with fencing tokens, and the queue that grants them."""
