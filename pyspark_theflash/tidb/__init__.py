"""TiDB's formats as values: codec, expressions, schemas, partitions and protocol messages."""
