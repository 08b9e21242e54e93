"""Clusters of real processes on this machine, for the demo, the benchmarks and the integration tests.

A `ProcessCluster` starts members with etcd's flags, so it drives `oarlock serve` and etcd's own binary
alike. Each member has a directory with its data and with what it printed; both survive a kill, and go with
the cluster's directory. Only processes started here are ever signalled, each by its own handle.

Ports lie below the kernel's ephemeral range, so that no outgoing connection takes one between two starts.
A port is reserved by listening on it at a second loopback address: two clusters made at the same time, in
different processes, never pick the same one.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from oarlock.errors import OarlockError

OARLOCK = (sys.executable, "-m", "oarlock.cli", "serve")
HOST = "127.0.0.1"
_RESERVATION_HOST = "127.0.0.2"
_PORTS = range(20_000, 32_000)
_POLL_SECONDS = 0.02
_LOG_TAIL_LINES = 15


class ProcessError(OarlockError):
    """A member did not start, answer or stop as asked. The message has the end of what it printed."""


class PortReservation:
    """Free TCP ports on 127.0.0.1 that no other `PortReservation` hands out before `close`."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> int:
        """A port nobody listens on."""
        chance = random.SystemRandom()
        for _ in range(500):
            port = chance.choice(_PORTS)
            lock = socket.socket()
            try:
                lock.bind((_RESERVATION_HOST, port))
                lock.listen(1)
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((HOST, port))
            except OSError:
                lock.close()
                continue
            self._held.append(lock)
            return port
        raise ProcessError("no free port found in 500 attempts")

    def close(self) -> None:
        for lock in self._held:
            lock.close()
        self._held.clear()


class MemberProcess:
    """One member: a command line, and the process that currently runs it, if any."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, client_port: int, peer_url: str
    ) -> None:
        self.name = name
        self.command = list(command)
        self.directory = directory
        self.client_port = client_port
        self.peer_url = peer_url
        self.log_file = directory / f"{name}.log"
        self.stopped = False
        """By SIGSTOP."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{HOST}:{self.client_port}"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the process. Returns at once; `wait_ready` waits until it serves."""
        if self.running:
            raise ProcessError(f"member {self.name} runs already")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on, or not
            )
        self.stopped = False

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self.stopped = False

    def freeze(self) -> None:
        """SIGSTOP, and wait until it holds: alive, connected, and silent."""
        if self.running:
            self.signal(signal.SIGSTOP)
            # The signal reaches a process of several threads a little later than kill() returns.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self.stopped = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)
        self.stopped = False

    def terminate(self, timeout: float = 10.0) -> int:
        """SIGTERM, and wait for a clean end.

        Returns:
            the exit code.

        Raises:
            ProcessError: it did not end in time.
        """
        if self.stopped:
            self.thaw()
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float) -> int:
        """Wait for its end; returns the exit code.

        Raises:
            ProcessError: it did not end in time.
        """
        if self._process is None:
            return 0
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(
                f"member {self.name} did not stop in {timeout:g} s\n{self.log_tail()}"
            ) from None

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The end of what it printed, for an error message."""
        try:
            text = self.log_file.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(f"    {self.name}: {line}" for line in text.splitlines()[-lines:])

    async def wait_ready(self, timeout: float = 20.0, page: str = "/health") -> None:
        """Wait until it answers `page` with 200.

        Args:
            page: ``/health``: it knows a leader and serves; ``/readyz``: and has caught up (not on etcd 3.5).

        Raises:
            ProcessError: it ended, or the time is up.
        """
        deadline = time.monotonic() + timeout
        while True:
            if not self.running:
                raise ProcessError(f"member {self.name} ended while starting\n{self.log_tail()}")
            if await http_status(self.client_port, page) == 200:
                return
            if time.monotonic() > deadline:
                raise ProcessError(f"member {self.name} was not ready after {timeout:g} s\n{self.log_tail()}")
            await asyncio.sleep(_POLL_SECONDS)


async def http_get(port: int, target: str, timeout: float = 2.0) -> tuple[int, bytes]:
    """One HTTP/1.1 GET on this machine: status and body. Status 0 means that nobody answered."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(1 << 20)
                while chunk := await reader.read(1 << 20):
                    answer += chunk
            finally:
                writer.transport.abort()  # the answer is complete, or of no use
    except (OSError, TimeoutError):
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body


async def http_status(port: int, target: str) -> int:
    return (await http_get(port, target))[0]


class ProcessCluster:
    """Members m1 … mN with their data below `directory`. Use as an async context manager.

    Leaving the context kills what still runs.
    """

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        *,
        program: Sequence[str] = OARLOCK,
        flags: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self._ports = PortReservation()
        self._program = tuple(program)
        self._flags = tuple(flags)
        names = [f"m{number}" for number in range(1, size + 1)]
        peer_ports = {name: self._ports.take() for name in names}
        initial = ",".join(f"{name}=http://{HOST}:{peer_ports[name]}" for name in names)
        self.members: list[MemberProcess] = []
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            joins = ("--initial-cluster", initial, "--initial-cluster-state", "new")
            self._make(name, peer_ports[name], joins)

    def _make(self, name: str, peer_port: int, joins: Sequence[str]) -> MemberProcess:
        client_port = self._ports.take()
        peer_url, client_url = f"http://{HOST}:{peer_port}", f"http://{HOST}:{client_port}"
        command = [
            *self._program,
            *("--name", name, "--data-dir", str(self.directory / name)),
            *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *joins,
            *self._flags,
        ]
        member = MemberProcess(name, command, self.directory, client_port, peer_url)
        self.members.append(member)
        return member

    def new_member(self, asks: MemberProcess | None = None) -> MemberProcess:
        """One more of ours, not started yet: add its `peer_url` to the membership first.

        Args:
            asks: whose address it is given; by default the first member's.
        """
        join = ("--join", (asks or self.members[0]).peer_url)
        return self._make(f"m{len(self.members) + 1}", self._ports.take(), join)

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def start(self) -> None:
        for member in self.members:
            member.start()

    async def wait_ready(self, timeout: float = 20.0) -> None:
        """Wait until every running member serves."""
        await asyncio.gather(*(member.wait_ready(timeout) for member in self.members if member.running))

    def kill(self) -> None:
        """SIGKILL to all at once, then wait: no member sees the others die first."""
        for member in self.members:
            member.signal(signal.SIGKILL)
        for member in self.members:
            member.kill()

    def close(self) -> None:
        self.kill()
        self._ports.close()

    async def __aenter__(self) -> ProcessCluster:
        self.start()
        try:
            await self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
