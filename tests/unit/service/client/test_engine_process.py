"""The program that finds or starts an engine process, for other languages."""

import json
import os
import subprocess
import sys

from pyspark_theflash.service.client.embedded import socket_path
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info

T = table_info(1, "d.t", [id_column()])


def run_process(*arguments):
    command = [sys.executable, "-m", "pyspark_theflash.service.client.engine_process", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    return done.returncode, json.loads(done.stdout)


def test_address(tmp_path):
    store = StoreBuilder(tmp_path / "store", T).publish(200, {T: [(1, 150, (1,))]}).path
    status, reply = run_process(str(store), "--idle", "5", "--workers", "1")
    assert (status, reply) == (0, {"address": f"unix:{socket_path(store)}"})
    with connect(reply["address"]) as api:
        assert [table.name for table in api.tables().tables] == ["d.t"]


def test_error(tmp_path):
    status, reply = run_process(str(tmp_path))
    assert status == 1
    assert reply["error"]["name"] == "StoreNotFoundError"
    assert f"no store at {tmp_path}" in reply["error"]["text"]
    assert reply["error"]["retryable"] is False
