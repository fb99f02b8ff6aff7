"""Generate the weights that the package ships, and keys for tests, with TiDB's own collators.

    python tools/collations/generate.py      needs Go, which downloads TiDB as a module on first use

`keys.go` beside this script prints `Collator.Key` of strings. In TiDB the weights of a character do
not depend on its neighbors, so the keys of single characters are sufficient:

    pyspark_theflash/tidb/codec/collations/NAME.npz    read by `pyspark_theflash.tidb.codec.weights`
      counts  uint8, one a code point: how many units its key has; the last code point stands for
              all above it too
      units   the first units of all code points, then the second ones of those that have two, and
              so on; each as the difference from the one before (mod 2^8 or 2^16), which compresses

    tests/golden/vectors/collation_keys.json.gz     strings with their keys, and the SHA-256 over
              the keys of every code point
"""

import gzip
import hashlib
import json
import random
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = ROOT / "pyspark_theflash" / "tidb" / "codec" / "collations"
GOLDEN = ROOT / "tests" / "golden" / "vectors" / "collation_keys.json.gz"

# Table -> one of the collations that have it, its unit, and the number of code points in it.
BMP_AND_ONE = 0x10001
TABLES = {
    "gbk_bin": ("gbk_bin", "u1", BMP_AND_ONE),
    "gbk_chinese_ci": ("gbk_chinese_ci", "u1", BMP_AND_ONE),
    "general_ci": ("utf8mb4_general_ci", "<u2", BMP_AND_ONE),
    "unicode_ci": ("utf8mb4_unicode_ci", "<u2", BMP_AND_ONE),
    "unicode_0900_ai_ci": ("utf8mb4_0900_ai_ci", "<u2", 0x110000),
}
COLLATIONS = (
    *("ascii_bin", "binary", "gbk_bin", "gbk_chinese_ci", "latin1_bin"),
    *("utf8_bin", "utf8_general_ci", "utf8_unicode_ci", "utf8mb4_0900_ai_ci", "utf8mb4_0900_bin"),
    *("utf8mb4_bin", "utf8mb4_general_ci", "utf8mb4_unicode_ci"),
)
WORDS = (
    "a A ß ss SS ﬃ ﷺ Ǆ æ é e\u0301 \u0301 한 \u1112\u1161\u11ab naïve ÀÉÎÕÜ Привет λψω 日本語 "
    "中文字符 😀 🏳\u200d🌈 € ⅷ ① 𐀀 𠀀 𗀀 \U000e0001 \U0010ffff"
)
# TiDB's table of UCA 9.0.0 ends in front of this character of Han, and TiDB panics at it.
PANICS = 0x2CEA1
CODE_POINTS = [*range(0xD800), *range(0xE000, PANICS), *range(PANICS + 1, 0x110000)]


class Collators:
    """TiDB's collators, as a program."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "keys"
        # Go writes to these two.
        (folder / "go.mod").write_bytes((HERE / "go.mod").read_bytes())
        options = ["-mod=mod", f"-modfile={folder / 'go.mod'}", "-buildvcs=false"]
        # A dependency of TiDB reaches into Go's runtime.
        options += ["-ldflags=-checklinkname=0", "-o", str(self._program)]
        subprocess.run(["go", "build", *options, "."], cwd=HERE, check=True)  # noqa: S603, S607

    def keys(self, collation: str, strings: list[str]) -> list[bytes]:
        """The key of each string."""
        lines = "".join(s.encode().hex() + "\n" for s in strings)
        command = [str(self._program), collation]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)  # noqa: S603
        keys = [bytes.fromhex(line) for line in done.stdout.split("\n")[:-1]]
        if len(keys) != len(strings):
            raise SystemExit(f"{len(keys)} keys of {len(strings)} strings")
        return keys

    def weights(self, collation: str) -> list[bytes]:
        """The key of every code point, by code point."""
        # Something behind it, or the space would be left out.
        followed = self.keys(collation, [chr(c) + "a" for c in CODE_POINTS])
        behind = len(self.keys(collation, ["a"])[0])
        weights = [b""] * 0x110000
        for code_point, key in zip(CODE_POINTS, followed, strict=True):
            weights[code_point] = key[:-behind]
        return weights


def table(weights: list[bytes], unit: str, size: int) -> dict[str, "np.ndarray[Any, Any]"]:
    """The arrays of a weights file."""
    if len({weights[c] for c in CODE_POINTS if c >= size - 1}) != 1:
        raise SystemExit("characters above the table differ")
    width = np.dtype(unit).itemsize
    counts = np.array([len(key) // width for key in weights[:size]], np.uint8)
    sections = []
    for place in range(counts.max()):
        units = b"".join(key[place * width : (place + 1) * width] for key in weights[:size])
        section = np.frombuffer(units, np.dtype(unit).newbyteorder(">")).astype(unit)
        sections.append(np.diff(section, prepend=section.dtype.type(0)))
    return {"counts": counts, "units": np.concatenate(sections)}


def implicit(code_point: int) -> bytes:
    """The weights that UCA gives a character of Han's extensions."""
    first, second = 0xFB80 + (code_point >> 15), code_point & 0x7FFF | 0x8000
    return first.to_bytes(2, "big") + second.to_bytes(2, "big")


def samples(chooser: random.Random) -> list[str]:
    """Strings of every kind: short and long ones, spaces, marks, ligatures, all planes."""
    strings = ["", " ", "   ", "a ", "a  ", " a", "a b", "a b ", "a\t", "a\0", "\u3000", "a\u00a0"]
    strings += WORDS.split(" ")
    strings += ["\ufffd", "\uffff", "\ue000", "Straße  ", "😀 a", "é "]
    blocks = [(0, 0x80), (0, 0x250), (0x250, 0x2000), (0x2000, 0x3400), (0x4E00, 0xA000)]
    blocks += [(0xA000, 0xD800), (0xE000, 0x10000), (0x10000, PANICS), (PANICS + 1, 0x110000)]
    for low, high in blocks:
        for length in (1, 1, 1, 2, 2, 3, 5, 8, 13, 40) * 6:
            text = "".join(chr(chooser.randrange(low, high)) for _ in range(length))
            strings.append(text + " " * chooser.choice((0, 0, 0, 1, 3)))
    mixed = "".join(chr(chooser.choice(CODE_POINTS)) for _ in range(400))
    strings += [mixed, mixed + "  ", "lorem ipsum dolor " * 60]
    strings += [a + b for a, b in pairwise(strings[:60])]
    return strings


def golden(collators: Collators, weights: dict[str, list[bytes]]) -> dict[str, Any]:
    """The document to test against."""
    strings = samples(random.Random(20241125))  # noqa: S311
    keys = {c: [key.hex() for key in collators.keys(c, strings)] for c in COLLATIONS}
    digests = {}
    for name, (collation, _, _) in TABLES.items():
        chosen = [weights[name][c] for c in CODE_POINTS]
        lengths = np.array([len(key) for key in chosen], "<u4")
        digests[collation] = hashlib.sha256(lengths.tobytes() + b"".join(chosen)).hexdigest()
    return {
        "about": "Collator.Key of github.com/pingcap/tidb/pkg/util/collate, the version in "
        "tools/collations/go.mod, printed by tools/collations/keys.go; hexadecimal. "
        "every_code_point: SHA-256 of the lengths (uint32, little-endian) and the keys of all "
        f"code points but surrogates and U+{PANICS:X}, at which TiDB panics, each with an 'a' "
        "behind it whose own key is cut off.",
        "strings": [s.encode().hex() for s in strings],
        "keys": keys,
        "every_code_point": digests,
    }


def main() -> None:
    """Write the package's tables and the golden file."""
    with tempfile.TemporaryDirectory() as folder:
        collators = Collators(Path(folder))
        weights = {name: collators.weights(tables[0]) for name, tables in TABLES.items()}
        document = golden(collators, weights)
    weights["unicode_0900_ai_ci"][PANICS] = implicit(PANICS)
    for name, (_, unit, size) in TABLES.items():
        np.savez_compressed(DATA / f"{name}.npz", **table(weights[name], unit, size))
    GOLDEN.write_bytes(gzip.compress(json.dumps(document).encode(), mtime=0))


if __name__ == "__main__":
    main()
