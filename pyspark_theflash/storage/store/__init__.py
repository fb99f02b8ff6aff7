"""The local manifest and its records: identity, schema history, progress, latches, commands."""
