import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.tls import TlsFiles
from tests.support.tls import FOLDER, tls


def test_content_is_shown_nowhere():
    files = tls("server")
    assert "server.key" not in repr(files)
    material = files.read()
    assert material.key.startswith(b"-----BEGIN EC PRIVATE KEY-----")
    assert repr(material) == "TlsMaterial()"


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(OptionError, match=r"cannot read .*none: No such file"):
        TlsFiles(tmp_path / "none").read()
    with pytest.raises(OptionError, match="given together"):
        TlsFiles(FOLDER / "ca.pem", FOLDER / "client.pem").read()
