"""Definitions that every package uses: errors, types, timestamps, files, options, TLS."""
