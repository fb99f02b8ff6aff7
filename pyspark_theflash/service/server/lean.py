"""What a process that only serves does without."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def leave_out_pandas() -> None:
    """Keep pandas out of this process: Arrow brings it in, where it is there, for nothing of ours.

    It would cost each process a third of its time to begin and 37 MB.
    """
    sys.meta_path.insert(0, _NoPandas())
