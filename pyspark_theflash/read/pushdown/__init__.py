"""Filters, aggregates and orders that a scan applies by the rules of Spark."""
