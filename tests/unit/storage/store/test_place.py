"""Places of stores: URLs and shared file systems are rejected, also for stores that exist."""

from pathlib import Path

import pytest

from pyspark_theflash.base.errors import StorePlaceError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.main import main
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.place import check_place


class Mounted(LocalFileSystem):
    """A file system that is mounted with the given type."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def kind(self, path: Path) -> str:
        assert path.exists()
        return self._kind


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "9p", "virtiofs"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.fuse_dfs", "fuse"),
    ],
)
def test_a_shared_file_system(kind: str, tmp_path: Path) -> None:
    """No store is created there; one that is there is not opened, and not changed."""
    with pytest.raises(StorePlaceError, match=f"the type {kind}: .* theflash serve"):
        registry.create(tmp_path / "deep" / "store", registry.MAGIC, Mounted(kind))
    assert not list(tmp_path.iterdir())
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    with pytest.raises(StorePlaceError, match=kind):
        open_manifest(tmp_path / "store", Mounted(kind))


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs", ""]
)
def test_a_local_file_system(kind: str, tmp_path: Path) -> None:
    registry.create(tmp_path / "store", registry.MAGIC, Mounted(kind))
    open_manifest(tmp_path / "store", Mounted(kind)).close()


@pytest.mark.parametrize("url", ["s3://bucket/store", "s3a://b/s", "hdfs://host/s", "gs://b/s"])
def test_a_url(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorePlaceError, match=r"a URL.*theflash serve"):
        check_place(Path(url), LocalFileSystem())
    assert main(["init", url]) == 2
    assert main(["tables", url]) == 2
    assert not list(tmp_path.iterdir())


def test_the_type_is_that_of_the_mount() -> None:
    """`/proc` has a type of its own, which the operating system names."""
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("no /proc")
    assert LocalFileSystem().kind(Path("/proc")) == "proc"
