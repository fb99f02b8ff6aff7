import shutil

import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.tls import TlsFiles, client_contexts
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


def test_a_clients_certificates_are_read_again(tmp_path, caplog):
    ca, cert, key = (tmp_path / name for name in ("ca", "cert", "key"))
    for path, name in ((ca, "ca.pem"), (cert, "client.pem"), (key, "client.key")):
        shutil.copy(FOLDER / name, path)
    context = client_contexts(TlsFiles(ca, cert, key))
    first = context()
    assert context() is first
    shutil.copy(FOLDER / "server.pem", cert)
    assert context() is first
    assert "the earlier certificates remain in use" in caplog.text
    shutil.copy(FOLDER / "server.key", key)
    assert context() is not first


def test_certificates_without_files_stay():
    context = client_contexts(tls("client").read())
    assert context() is context()
