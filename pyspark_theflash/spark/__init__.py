"""Spark integration: the Python data source, which translates and calls lower layers."""
