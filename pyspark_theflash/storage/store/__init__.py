"""The local manifest: identity, schema history, progress, leases."""
