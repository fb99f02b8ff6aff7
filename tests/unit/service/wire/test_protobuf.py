"""Messages of the API in protobuf's form and in JSON."""

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.service.wire.message import TablesRequest
from pyspark_theflash.service.wire.protobuf import decode


@pytest.mark.parametrize("body", [rb'"\ud800"', rb'{"\ud800": 1}', rb'{"snapshot": "\udfff"}'])
def test_half_a_surrogate_pair_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError, match="TablesRequest"):
        decode(TablesRequest, body, as_json=True)
