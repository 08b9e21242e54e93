"""Frames in a stream that arrives in any pieces, intact or not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.errors import InvariantViolated, WireError
from oarlock.wire import FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameKind, FrameReader, encode_frame

frames = st.lists(
    st.tuples(st.sampled_from(FrameKind), st.integers(0, 2**64 - 1), st.binary(max_size=300)), max_size=8
)


@given(frames, st.lists(st.integers(0, 3000), max_size=12))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    parts: list[tuple[FrameKind, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode_frame(*part) for part in parts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader()
    found = [frame for begin, end in pairwise(places) for frame in reader.feed(stream[begin:end])]
    assert found == [Frame(1, kind, group, payload) for kind, group, payload in parts]
    assert reader.buffered_bytes == 0


def test_frames_come_out_of_a_stream_of_single_bytes() -> None:
    stream = encode_frame(FrameKind.MESSAGES, 7, b"hello") * 3
    reader = FrameReader()
    found = [frame for byte in stream for frame in reader.feed(bytes([byte]))]
    assert found == [Frame(1, FrameKind.MESSAGES, 7, b"hello")] * 3


def test_every_flipped_byte_is_noticed() -> None:
    stream = encode_frame(FrameKind.MESSAGES, 7, b"hello world")
    for offset in range(len(stream)):
        for bit in range(8):
            data = bytearray(stream)
            data[offset] ^= 1 << bit
            reader = FrameReader(1000)
            try:
                found = reader.feed(bytes(data))
            except WireError:
                continue
            # A larger length: the reader waits for the rest, and the checksum will not match it.
            assert found == []
            assert offset < 4
            with pytest.raises(WireError):
                reader.feed(bytes(2000))


@given(st.binary(max_size=400))
def test_random_bytes_give_frames_or_a_wire_error(data: bytes) -> None:
    try:
        FrameReader().feed(data)
    except WireError:
        pass


def test_length_above_the_limit_is_refused_on_sight_of_the_header() -> None:
    header = (5001).to_bytes(4, "little") + bytes(FRAME_HEADER_BYTES - 4)
    with pytest.raises(WireError, match="5001 bytes is above the limit of 5000"):
        FrameReader(5000).feed(header)


def test_reader_holds_no_more_than_one_unfinished_frame() -> None:
    frame = encode_frame(FrameKind.MESSAGES, 1, bytes(1000))
    reader = FrameReader(1000)
    for _ in range(50):
        reader.feed(frame + frame[:-1])
        assert reader.buffered_bytes == len(frame) - 1
        reader.feed(frame[-1:])
        assert reader.buffered_bytes == 0


def test_limit_can_grow_after_the_handshake() -> None:
    reader = FrameReader(10)
    reader.payload_bytes_max = 1000
    assert reader.feed(encode_frame(FrameKind.MESSAGES, 1, bytes(1000)))


def test_payload_above_the_limit_is_not_encoded() -> None:
    with pytest.raises(InvariantViolated):
        encode_frame(FrameKind.MESSAGES, 1, bytes(FRAME_BYTES_MAX + 1))


def slow_crc32c(data: bytes) -> int:
    """The definition, bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_layout_of_a_frame_is_fixed() -> None:
    """The format's promise, byte by byte: changing it needs a new version."""
    checked = bytes.fromhex("010200000201000000000000") + b"abc"
    assert slow_crc32c(b"123456789") == 0xE3069283
    expected = bytes.fromhex("03000000") + slow_crc32c(checked).to_bytes(4, "little") + checked
    assert encode_frame(FrameKind.MESSAGES, 0x0102, b"abc") == expected
