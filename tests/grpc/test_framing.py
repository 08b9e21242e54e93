"""Messages in a byte stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.grpc.framing import MessageReader, frame_message
from oarlock.grpc.status import RpcError, StatusCode


@given(st.lists(st.binary(max_size=300), max_size=10), st.integers(1, 50))
def test_messages_survive_any_segmentation(messages: list[bytes], cut: int) -> None:
    reader = MessageReader(1000)
    data = b"".join(frame_message(message) for message in messages)
    out = []
    for start in range(0, len(data), cut):
        out += reader.feed(data[start : start + cut])
        assert reader.held <= 305
    assert out == messages
    assert reader.held == 0


def test_too_large_message_is_refused_by_its_prefix_alone() -> None:
    with pytest.raises(RpcError, match=r"larger than max \(1001 vs\. 1000\)") as caught:
        MessageReader(1000).feed(b"\0" + (1001).to_bytes(4, "big"))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_compressed_message_is_unimplemented() -> None:
    with pytest.raises(RpcError) as caught:
        MessageReader(1000).feed(b"\x01\0\0\0\0")
    assert caught.value.code is StatusCode.UNIMPLEMENTED
