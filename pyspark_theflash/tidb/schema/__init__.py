"""Tables and columns as of a schema version."""
