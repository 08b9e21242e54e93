"""Every public name leaves by exactly one door, and every door opens."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import oarlock
from oarlock import errors

PACKAGES = sorted(
    f"oarlock.{module.name}" for module in pkgutil.iter_modules(oarlock.__path__) if module.ispkg
)


@pytest.mark.parametrize("name", ["oarlock", *PACKAGES])
def test_what_a_package_lists_it_has(name: str) -> None:
    package = importlib.import_module(name)
    listed = getattr(package, "__all__", [])
    assert len(listed) == len(set(listed))
    for item in listed:
        assert getattr(package, item) is not None, f"{name}.{item}"


def test_the_door_has_the_same_objects_as_the_modules_behind_it() -> None:
    from oarlock import embed, machine, replica

    assert oarlock.Replica is embed.Replica
    assert oarlock.RuntimeLimits is replica.RuntimeLimits
    for name in ("StateMachine", "command", "query"):
        assert getattr(oarlock, name) is getattr(machine, name)
    for name in oarlock.__all__:
        if inspect.isclass(item := getattr(oarlock, name)) and issubclass(item, BaseException):
            assert item is getattr(errors, name)


def test_every_error_of_a_request_and_of_the_storage_can_be_caught_by_a_name_at_the_door() -> None:
    for name, item in vars(errors).items():
        if inspect.isclass(item) and issubclass(item, errors.RequestError | errors.StorageError):
            assert name in oarlock.__all__


def test_the_door_lists_what_it_has_and_nothing_else() -> None:
    assert sorted(oarlock.__all__) == list(oarlock.__all__)
    assert dir(oarlock) == list(oarlock.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = oarlock.Nothing


def test_the_names_for_the_type_checker_are_the_names_at_the_door() -> None:
    """They are written twice in the file: once to be imported late, once for those who read types."""
    source = inspect.getsource(oarlock)
    block = source[source.index("if TYPE_CHECKING:") : source.index("__version__ =")]
    for name in oarlock.__all__:
        assert name == "__version__" or name in block.replace(",", " ").split()


def test_importing_the_library_imports_nothing_heavy() -> None:
    """The everyday names come when they are used: a command line need not pay for them."""
    heavy = {"asyncio", "msgspec", "ssl", "lmdb", "google.protobuf"}
    script = "import sys, oarlock; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert not heavy & set(done.stdout.split())
