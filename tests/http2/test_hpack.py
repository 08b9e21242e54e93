"""Header compression: equal to the library in every result, and memory that never lies."""

from __future__ import annotations

import pytest
from hpack import Decoder as LibraryDecoder
from hpack import Encoder as LibraryEncoder
from hypothesis import given
from hypothesis import strategies as st

from oarlock.http2.errors import ConnectionFault, ErrorCode
from oarlock.http2.hpack import SHRINK_TO_NOTHING, Decoder, Encoder, encode_stateless
from oarlock.http2.limits import Limits

NAMES = st.sampled_from([b":path", b":method", b"content-type", b"grpc-timeout", b"x-trace", b"cookie"])
VALUES = st.one_of(
    st.sampled_from([b"POST", b"GET", b"/", b"application/grpc", b""]), st.binary(max_size=200)
)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


@given(st.lists(st.tuples(LISTS, st.booleans(), st.sampled_from([None, 0, 100, 4096])), max_size=8))
def test_decoder_agrees_with_the_library_over_a_whole_connection(
    blocks: list[tuple[list[tuple[bytes, bytes]], bool, int | None]],
) -> None:
    encoder = LibraryEncoder()
    ours, theirs = Decoder(Limits()), LibraryDecoder()
    for fields, huffman, resize in blocks:
        if resize is not None:
            encoder.header_table_size = resize
        data = encoder.encode(fields, huffman=huffman)
        block = ours.remembered.get(data) or ours.decode(data)
        assert block.fields == [tuple(field) for field in theirs.decode(data, raw=True)] == fields


@given(st.lists(LISTS, max_size=8))
def test_remembered_block_always_means_what_a_fresh_decoding_means(
    lists: list[list[tuple[bytes, bytes]]],
) -> None:
    encoder, ours = LibraryEncoder(), Decoder(Limits())
    for fields in [*lists, *lists, *lists]:
        data = encoder.encode(fields)
        block = ours.remembered.get(data) or ours.decode(data)
        assert block.fields == fields


@given(st.binary(max_size=300))
def test_garbage_raises_a_compression_error_and_nothing_else(data: bytes) -> None:
    code = ErrorCode.COMPRESSION_ERROR
    try:
        Decoder(Limits()).decode(data)
    except ConnectionFault as fault:
        code = fault.code
    assert code is ErrorCode.COMPRESSION_ERROR


def test_block_is_remembered_once_the_encoder_has_settled() -> None:
    encoder, decoder = LibraryEncoder(), Decoder(Limits())
    fields = [(b":path", b"/a/B"), (b"x-trace", b"1")]
    decoder.decode(encoder.encode(fields))
    assert not decoder.remembered  # the first one has filled the table
    settled = encoder.encode(fields)
    decoder.decode(settled)
    assert list(decoder.remembered) == [settled]


def test_change_of_the_table_forgets_all_blocks() -> None:
    encoder, decoder = LibraryEncoder(), Decoder(Limits())
    fields = [(b"x-trace", b"1")]
    for _ in range(2):
        decoder.decode(encoder.encode(fields))
    assert decoder.remembered
    decoder.decode(encoder.encode([(b"x-trace", b"2")]))
    assert not decoder.remembered


def test_cache_is_bounded_in_entries_and_in_size_of_each() -> None:
    limits = Limits(remembered_blocks=10, remembered_block_size=100)
    decoder = Decoder(limits)
    for number in range(1000):
        decoder.decode(encode_stateless([(b"x", b"%d" % number)]))
        assert len(decoder.remembered) <= 10
    long = encode_stateless([(b"x", b"y" * 200)])
    decoder.decode(long)
    assert long not in decoder.remembered


def test_integer_of_many_bytes_is_refused() -> None:
    with pytest.raises(ConnectionFault, match="35 bits"):
        Decoder(Limits()).decode(b"\xff" + b"\x80" * 10_000 + b"\x01")


def test_oversize_list_is_marked_and_the_table_stays_in_step() -> None:
    encoder, decoder = LibraryEncoder(), Decoder(Limits(max_header_list=1000))
    block = decoder.decode(encoder.encode([(b"a", b"x" * 600), (b"b", b"y" * 600), (b"c", b"z")]))
    assert block.oversize
    assert decoder.decode(encoder.encode([(b"c", b"z")])).fields == [(b"c", b"z")]


def test_indexed_bomb_collects_no_more_than_the_limit() -> None:
    decoder = Decoder(Limits(max_header_list=32 * 1024))
    decoder.decode(b"\x40\x01a" + b"\x7f\xa1\x1e" + b"v" * 4000)  # one entry of 4 KB in the dynamic table
    block = decoder.decode(b"\xbe" * 10_000)
    assert block.oversize
    assert len(block.fields) <= 8


def test_table_size_update_is_checked_against_our_setting() -> None:
    with pytest.raises(ConnectionFault, match="table size"):
        Decoder(Limits()).decode(b"\x3f\xe2\x1f")  # 4097
    with pytest.raises(ConnectionFault, match="after a field"):
        Decoder(Limits()).decode(b"\x82\x20")


@given(LISTS)
def test_stateless_block_decodes_to_its_fields_on_any_connection(fields: list[tuple[bytes, bytes]]) -> None:
    data = encode_stateless(fields)
    theirs = LibraryDecoder()
    for _ in range(2):
        assert [tuple(field) for field in theirs.decode(data, raw=True)] == fields
    assert not theirs.header_table.dynamic_entries


def test_client_encoder_says_when_a_block_may_be_sent_again() -> None:
    encoder, theirs = Encoder(), LibraryDecoder()
    fields = [(b":path", b"/a/B"), (b"x-trace", b"1")]
    first, stable = encoder.encode(fields)
    assert not stable
    again, stable = encoder.encode(fields)
    assert stable
    assert len(again) < len(first)
    for data in (first, again, again):
        assert [tuple(field) for field in theirs.decode(data, raw=True)] == fields


def test_client_encoder_obeys_a_smaller_table() -> None:
    encoder, theirs = Encoder(), LibraryDecoder()
    version = encoder.table.version
    encoder.resize(0)
    assert encoder.table.version != version
    theirs.max_allowed_table_size = 0
    data, stable = encoder.encode([(b"x-trace", b"1")])
    assert not stable  # it carries the size update
    assert data.startswith(SHRINK_TO_NOTHING)
    assert [tuple(field) for field in theirs.decode(data, raw=True)] == [(b"x-trace", b"1")]
