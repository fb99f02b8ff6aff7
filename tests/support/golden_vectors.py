"""Single values that TiDB's own Go code encoded."""

import gzip
import json
from pathlib import Path
from typing import Any, Final

VECTORS: Final = Path(__file__).parents[1] / "golden" / "vectors"


def codec_vectors(kind: str) -> list[dict[str, Any]]:
    """The vectors of one kind: `in` is the value, `hex` its encoding."""
    vectors = json.loads(gzip.decompress((VECTORS / "codec_vectors.json.gz").read_bytes()))
    return [vector for vector in vectors if vector["kind"] == kind]


def live_tables() -> list[dict[str, Any]]:
    """Tables with rows as SELECT shows them, keys and values."""
    document = json.loads(gzip.decompress((VECTORS / "live_vectors.json.gz").read_bytes()))
    tables: list[dict[str, Any]] = document["tables"]
    return tables
