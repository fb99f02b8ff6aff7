"""TiDB's bytes and texts to and from Arrow columns. No I/O."""
