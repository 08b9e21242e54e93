"""Peer URLs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.errors import UsageError
from oarlock.transport import Address, parse_peer_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:2380", Address("127.0.0.1", 2380, False)),
        ("https://node-1.example:443/", Address("node-1.example", 443, True)),
        ("http://[::1]:2380", Address("::1", 2380, False)),
    ],
)
def test_peer_urls_give_host_port_and_whether_tls(url: str, address: Address) -> None:
    assert parse_peer_url(url) == address
    assert parse_peer_url(str(address)) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:2380",
        "http://localhost",
        "http://:2380",
        "http://host:port",
        "http://host:70000",
        "unix:///tmp/socket",
        "http://host:1/path",
        "http://host:1?q",
        "http://user@host:1",
        "http://[::1:2380",
        "http://ho st:1",
        "http://a..b:1",
        "http://" + "a" * 64 + ":1",
    ],
)
def test_wrong_peer_urls_are_refused_in_one_line_that_names_them(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_peer_url(url)
    assert repr(url) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text() | st.text().map(lambda text: "http://" + text))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        parse_peer_url(text)
    except UsageError:
        pass
