"""Frames to bytes."""

from __future__ import annotations

import pytest

from oarlock.errors import UsageError
from oarlock.http2 import frames
from oarlock.http2.frames import Template, frame
from oarlock.http2.limits import Limits

from .pump import parse


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 50_000])
def test_header_block_is_cut_into_frames_that_fit(size: int) -> None:
    block = bytes(size)
    parts = parse(frames.headers(7, block, end_stream=True))
    assert b"".join(payload for *_, payload in parts) == block
    assert [kind for kind, *_ in parts] == [frames.HEADERS] + [frames.CONTINUATION] * (len(parts) - 1)
    assert [bool(flags & frames.END_HEADERS) for _, flags, *_ in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[0][1] & frames.END_STREAM
    assert all(stream_id == 7 and len(payload) <= 16_384 for _, _, stream_id, payload in parts)


@pytest.mark.parametrize("trailers", [None, b"trailers"])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 16_000])
def test_template_renders_what_the_single_frames_would_be(trailers: bytes | None, size: int) -> None:
    template = Template(b"block", trailers)
    parts: list[bytes] = []
    template.render(parts, 0x7FFFFFFF, b"lead.", bytes(size))
    rendered = b"".join(parts)
    expected = frames.headers(0x7FFFFFFF, b"block", end_stream=False)
    end = frames.END_STREAM if trailers is None else 0
    expected += frame(frames.DATA, end, 0x7FFFFFFF, b"lead." + bytes(size))
    if trailers is not None:
        expected += frames.headers(0x7FFFFFFF, trailers, end_stream=True)
    assert rendered == expected
    assert len(rendered) <= template.overhead + 5 + size


def test_settings_come_back_as_they_were() -> None:
    values = {1: 4096, 4: 0x7FFFFFFF, 0x99: 7}
    (parsed,) = parse(frames.settings(values))
    assert dict(frames.parse_settings(parsed[3])) == values


def test_goaway_text_is_bounded() -> None:
    (parsed,) = parse(frames.goaway(1, 2, "é" * 10_000))
    assert len(parsed[3]) == 8 + 256


@pytest.mark.parametrize(
    "bad",
    [
        {"stream_window": 1},
        {"stream_window": 1 << 31},
        {"connection_window": 1000},
        {"max_header_block": 100},
        {"soft_output": 1 << 40},
    ],
)
def test_contradicting_limits_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Limits(**bad)
