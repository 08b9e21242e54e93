"""nghttp2's client and load generator against our server. They come from Debian, so these tests may skip
elsewhere."""

from __future__ import annotations

import asyncio
import re
import shutil

import pytest

from oarlock.grpc import Server

pytestmark = pytest.mark.skipif(
    not shutil.which("nghttp") or not shutil.which("h2load"), reason="nghttp2-client is not installed"
)

BIG = b"0123456789abcdef" * 40_000


async def nghttp(program: str, *arguments: str, path: str) -> str:
    """Run a client against a server of ours; its output."""
    server = Server()
    server.add_unary("/t.T/Echo", lambda call, message: call.reply(message))
    server.http1 = lambda method, target, headers: (
        200,
        [("content-type", "text/plain")],
        BIG if target == "/big" else target.encode(),
    )
    host, port = await server.listen("127.0.0.1", 0)
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        f"http://{host}:{port}{path}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    await server.close(0)
    assert process.returncode == 0, output
    return output.decode()


async def test_nghttp_gets_an_answer_and_sees_a_correct_peer() -> None:
    output = await nghttp("nghttp", "-v", path="/health")
    assert re.search(r"recv \(stream_id=\d+\) :status: 200", output)
    assert "/health" in output
    assert "SETTINGS_MAX_CONCURRENT_STREAMS(0x03):2048" in output
    sent_goaway = output.rindex("GOAWAY")
    assert "error_code=NO_ERROR" in output[sent_goaway:]


@pytest.mark.parametrize(
    "options", [["-w", "10", "-W", "10"], ["-w", "30", "-W", "30"], ["-b", "255"], ["-w", "16", "-b", "100"]]
)
async def test_nghttp_gets_a_large_body_whatever_its_windows(options: list[str]) -> None:
    output = await nghttp("nghttp", *(["-nsv", *options]), path="/big")
    assert sum(map(int, re.findall(r"recv DATA frame <length=(\d+)", output))) == len(BIG)


async def test_nghttp_posts_with_padding_continuation_and_trailers(tmp_path: pytest.TempPathFactory) -> None:
    body = str(tmp_path) + "/body"
    with open(body, "wb") as file:  # noqa: ASYNC230
        file.write(bytes(200_000))
    output = await nghttp(
        "nghttp", "-v", "--continuation", "-b", "100", "--trailer", "x-sum: 1", "-d", body, path="/upload"
    )
    assert re.search(r":status: 415", output)
    assert "error_code=NO_ERROR" in output[output.rindex("GOAWAY") :]


async def test_h2load_gets_every_answer_over_many_streams() -> None:
    output = await nghttp("h2load", "-n", "5000", "-c", "20", "-m", "100", path="/health")
    assert "5000 succeeded, 0 failed, 0 errored" in output
