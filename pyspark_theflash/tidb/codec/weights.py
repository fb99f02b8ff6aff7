"""Weights of characters under the collations that do not compare bytes.

A string's weights are those of its characters, one after the other. TiDB knows no contractions, so
a character's weights do not depend on its neighbours:

    general_ci            1 unit of 2 bytes: the character that it counts as, U+FFFD above the BMP
    unicode_ci            0-8 units of 2 bytes: primary weights of UCA 4.0.0, U+FFFD above the BMP
    unicode_0900_ai_ci    0-8 units of 2 bytes: primary weights of UCA 9.0.0
    gbk_bin               1-2 units of 1 byte: the character in GBK, `?` if it is not in there
    gbk_chinese_ci        1-2 units of 1 byte: by pinyin

The tables are in `collations/*.npz`, which `tools/collations/generate.py` makes and describes.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_FOLDER: Final = files("pyspark_theflash.tidb.codec").joinpath("collations")


@dataclass(frozen=True, slots=True)
class Weights:
    """The units of code point c are those from `starts[c]` up to `starts[c + 1]`.

    The last code point stands for all above it too.
    """

    starts: npt.NDArray[np.int32]
    units: npt.NDArray[Any]

    def of(
        self, codes: npt.NDArray[np.uint32]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The weights of all characters joined, and the n + 1 bounds of each one's, in bytes."""
        known = np.minimum(codes, np.uint32(len(self.starts) - 2))
        begin = self.starts[known]
        size = self.starts[known + 1] - begin
        bounds = np.zeros(len(codes) + 1, np.int64)
        np.cumsum(size, out=bounds[1:])
        if (size == 1).all():
            chosen = self.units[begin]
        else:
            within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], size)
            chosen = self.units[np.repeat(begin, size) + within]
        return chosen.view(np.uint8), bounds * self.units.itemsize


@cache
def load_weights(name: str) -> Weights:
    """The weights of one table; read once."""
    with _FOLDER.joinpath(f"{name}.npz").open("rb") as file, np.load(file) as arrays:
        counts, differences = arrays["counts"], arrays["units"]
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    units = np.empty_like(differences)
    done = 0
    for place in range(counts.max()):
        having = starts[:-1][counts > place]
        section = differences[done : done + len(having)]
        units[having + place] = np.cumsum(section, dtype=section.dtype)
        done += len(having)
    return Weights(starts, units.astype(units.dtype.newbyteorder(">")))
