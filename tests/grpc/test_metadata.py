"""Timeouts, status messages, metadata."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.errors import UsageError
from oarlock.grpc.metadata import (
    decode_message,
    decode_metadata,
    encode_message,
    encode_metadata,
    format_timeout,
    parse_timeout,
)
from oarlock.grpc.status import RpcError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"250m", 0.25),
        (b"99999999u", 99.999999),
        (b"5n", 5e-9),
        (b"0S", 0),
    ],
)
def test_timeout_is_understood(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1x", b"-1S", b"1.5S", b"123456789S", b" 1S", b"1S "])
def test_malformed_timeout_is_refused(value: bytes) -> None:
    with pytest.raises(RpcError, match="malformed grpc-timeout"):
        parse_timeout(value)


@given(st.floats(1e-7, 1e7))
def test_timeout_survives_the_wire_nearly_unchanged(seconds: float) -> None:
    value = format_timeout(seconds)
    assert len(value) <= 9
    assert parse_timeout(value) == pytest.approx(seconds, rel=1e-4, abs=1e-6)
    assert parse_timeout(value) > 0


@given(st.text(max_size=100))
def test_status_message_survives_the_wire(text: str) -> None:
    encoded = encode_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert decode_message(encoded) == text


@given(st.binary(max_size=50))
def test_any_status_message_can_be_read(value: bytes) -> None:
    decode_message(value)


@given(st.binary(max_size=100))
def test_binary_metadata_survives_the_wire(value: bytes) -> None:
    assert decode_metadata(encode_metadata([("x-bin", value)])) == [("x-bin", value)]


def test_joined_and_broken_binary_values() -> None:
    assert decode_metadata([(b"x-bin", b"YQ, Yg==")]) == [("x-bin", b"a"), ("x-bin", b"b")]
    assert decode_metadata([(b"x-bin", b"!")]) == []


def test_what_belongs_to_the_protocol_is_no_metadata() -> None:
    fields = [(b":path", b"/"), (b"grpc-timeout", b"1S"), (b"te", b"trailers"), (b"x", b"y")]
    assert decode_metadata(fields) == [("x", "y")]


@pytest.mark.parametrize(
    "bad",
    [
        ("Upper", "x"),
        ("grpc-x", "x"),
        ("te", "x"),
        ("a b", "x"),
        ("x", "ä"),
        ("x", "a\r\nb"),
        ("x", b"raw"),
        ("x", " y"),
    ],
)
def test_metadata_that_is_not_allowed_is_the_callers_mistake(bad: tuple[str, str | bytes]) -> None:
    with pytest.raises(UsageError):
        encode_metadata([bad])
