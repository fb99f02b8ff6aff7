import pytest

from pyspark_theflash.binlog.spool import Spool
from pyspark_theflash.fs import LocalFileSystem


@pytest.fixture
def spool(tmp_path):
    opened = Spool(tmp_path / "spool", LocalFileSystem(), file_bytes=1000)
    yield opened
    opened.close()
