"""Transactions to publications: decode changes, find their partitions, keep the writer's state."""
