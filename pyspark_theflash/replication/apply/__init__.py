"""Conversion of transactions to publications: decoding, partition assignment, writer state."""
