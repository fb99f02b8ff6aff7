"""The memory of one request is a setting of the process that evaluates it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.errors import OptionError, ServiceUnavailableError, SqlMemoryError
from pyspark_theflash.service.api.limits import Limits, Quota
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.processes import engines, wait_until
from tests.support.serving import serving

COLUMNS = [id_column(), column("text", MySQLType.VARCHAR, collate="utf8mb4_bin")]
VIRTUAL = {"generated_expr_string": "concat(`text`, `text`)", "generated_stored": False}
TABLE = table_info(7, "shop.item", COLUMNS)
DOUBLED = table_info(
    8, "shop.doubled", [*COLUMNS, column("v", MySQLType.VARCHAR, collate="utf8mb4_bin", **VIRTUAL)]
)
LARGE = "length(replace(text, 'e', 'eeeeeeeeeeeeeeee')) > 9"
CONSTANT = f"length(replace(replace('{'e' * 500}', 'e', '{'e' * 100}'), 'e', '{'e' * 100}')) > id"
"""Both make 5 MB of a row or of constants."""
SMALL, ENOUGH = ["request_memory=4194304"], ["request_memory=67108864"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large_rows(tmp_path_factory.mktemp("large") / "store")


def large_rows(path: Path) -> Path:
    """Create a store with a row of 300 KB, and one of 3 MB that is doubled when it is read."""
    row = (1, 110, [1, "e" * 300_000])
    wide = (1, 110, [1, "e" * 3_000_000, None])
    return StoreBuilder(path, TABLE, DOUBLED).publish(200, {TABLE: [row], DOUBLED: [wide]}).path


@contextmanager
def of_a_server(store: Path, limits: Sequence[str]) -> Iterator[TheFlash]:
    address = f"unix:{store}/s"
    with serving(store, address, limits=Limits().with_changes(limits)), connect(address) as api:
        yield api


def of_this_process(store: Path, limits: Sequence[str]) -> TheFlash:
    return connect(store, limits=limits)


def rows(api: TheFlash, where: str) -> int:
    return sum(each.num_rows for each in api.read(api.plan("shop.item", ["id"], where=where)))


def check_memory(way: Callable[[Path, Sequence[str]], Any], store: Path) -> None:
    """Check that a way of reading obeys the limit of a request's memory."""
    with way(store, SMALL) as api:
        for where in (LARGE, CONSTANT):
            with pytest.raises(SqlMemoryError, match="limit of 4 MiB"):
                rows(api, where)
        assert rows(api, "id = 1") == 1
    wait_until(lambda: not engines(store))
    with way(store, ENOUGH) as api:
        assert [rows(api, LARGE), rows(api, CONSTANT)] == [1, 1]


@pytest.mark.parametrize("way", [of_a_server, of_this_process])
def test_memory_of_a_request(way: Any, store: Path) -> None:
    check_memory(way, store)


def test_memory_of_a_digest(store: Path) -> None:
    with connect(store, limits=SMALL) as api, pytest.raises(SqlMemoryError):
        api.digest("shop.doubled")
    with connect(store, limits=ENOUGH) as api:
        assert api.digest("shop.doubled").rows == 1


def test_limits_of_connect(store: Path) -> None:
    for where, limits in ((store, ["request=1"]), ("unix:/nowhere", SMALL)):
        with pytest.raises(OptionError):
            connect(where, limits=limits)


def test_a_share_is_kept_for_administrators() -> None:
    quota = Quota("s", "calls", 16, per_identity=8)
    quota.acquire("a", 8)
    with pytest.raises(ServiceUnavailableError, match="a uses its 8 calls"):
        quota.acquire("a")
    quota.acquire("b", 6)
    with pytest.raises(ServiceUnavailableError, match="all 14 calls are in use"):
        quota.acquire("c")
    quota.acquire("root", 2, is_admin=True)
    with pytest.raises(ServiceUnavailableError):
        quota.acquire("root", is_admin=True)
    quota.release("root", 2)
    quota.release("b", 6)
    quota.acquire("root", 8, is_admin=True)
    assert quota.total == 16
