import pytest

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.pump.spool import Spool


@pytest.fixture
def spool(tmp_path):
    opened = Spool(tmp_path / "spool", LocalFileSystem(), file_bytes=1000)
    yield opened
    opened.close()
