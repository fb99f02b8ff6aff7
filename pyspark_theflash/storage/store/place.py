"""Places of stores: only local file systems.

The writer's lock, the readers' lock and SQLite's log have no effect, or none that can be relied on,
between machines. Latches expire on a clock that counts from the boot of one machine, so another
machine would take them for ended and remove what they retain.
"""

import re
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import StorePlaceError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.store.manifest import file_errors

_URL_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
SHARED: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "davfs"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs", "pvfs2", "gfs2", "ocfs2"),
        *("9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs"),
    )
)
"""Types of file systems that several machines, or virtual ones, can write to at the same time."""
LOCAL_FUSE: Final = frozenset(
    (
        *("fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuse.gocryptfs"),
        *("fuse.encfs", "fuse.ntfs-3g"),
    )
)
"""FUSE file systems over local folders; all others may be like sshfs, s3fs and gcsfuse."""


def check_place(path: Path, fs: FileSystem) -> None:
    """Raise `StorePlaceError` unless a path, which may not exist yet, is on a local file system."""
    if path.parts and _URL_SCHEME.fullmatch(path.parts[0]):
        raise StorePlaceError(str(path), "a URL")
    with file_errors(path):
        existing = path.absolute()
        while not existing.exists():
            existing = existing.parent
        kind = fs.kind(existing)
    is_fuse = kind.partition(".")[0] == "fuse" and kind not in LOCAL_FUSE
    if is_fuse or kind in SHARED:
        raise StorePlaceError(str(path), f"on a file system of the type {kind}")
