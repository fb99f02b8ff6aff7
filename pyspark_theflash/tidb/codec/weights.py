"""Weights of characters under collations that are not bytewise.

The weights of a string are the concatenated weights of its characters. TiDB does not support
contractions, so the weights of a character do not depend on its neighbours:

    general_ci            1 unit of 2 bytes: the equivalent character, U+FFFD above the BMP
    unicode_ci            0-8 units of 2 bytes: primary weights of UCA 4.0.0, U+FFFD above the BMP
    unicode_0900_ai_ci    0-8 units of 2 bytes: primary weights of UCA 9.0.0
    gbk_bin               1-2 units of 1 byte: the character in GBK, or `?` if GBK does not have it
    gbk_chinese_ci        1-2 units of 1 byte: by pinyin

The tables are in `collations/*.npz`; `tools/collations/generate.py` generates and describes them.
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
    """Weight table: the units of code point c are `units[starts[c]:starts[c + 1]]`.

    Code points above the last one have the weights of the last one.
    """

    starts: npt.NDArray[np.int32]
    units: npt.NDArray[Any]

    def of(
        self, codes: npt.NDArray[np.uint32]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return the concatenated weights of n code points, and their n + 1 bounds in bytes."""
        entries = np.minimum(codes, np.uint32(len(self.starts) - 2))
        begin = self.starts[entries]
        size = self.starts[entries + 1] - begin
        bounds = np.zeros(len(codes) + 1, np.int64)
        np.cumsum(size, out=bounds[1:])
        if (size == 1).all():
            units = self.units[begin]
        else:
            within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], size)
            units = self.units[np.repeat(begin, size) + within]
        return units.view(np.uint8), bounds * self.units.itemsize


@cache
def load_weights(name: str) -> Weights:
    """Load a weight table; later calls return the cached one."""
    with _FOLDER.joinpath(f"{name}.npz").open("rb") as file, np.load(file) as arrays:
        counts, differences = arrays["counts"], arrays["units"]
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    units = np.empty_like(differences)
    # The file has the first units of all characters, then the second ones, and so on, each stored
    # as the difference from the entry before it.
    read = 0
    for index in range(counts.max()):
        begin = starts[:-1][counts > index]
        section = differences[read : read + len(begin)]
        units[begin + index] = np.cumsum(section, dtype=section.dtype)
        read += len(begin)
    return Weights(starts, units.astype(units.dtype.newbyteorder(">")))
