"""The Spark edge: a Python data source, which translates and calls down."""
