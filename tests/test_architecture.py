"""The layer table of the design, read from the imports themselves.

Imports point down. Each package may import what its row names, and what those rows may import in turn.
Pure packages and modules touch neither clock nor chance nor the outside world: those come in as arguments.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "oarlock"

LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "raft": {"errors"},
    "wire": {"raft"},
    "machine": {"errors"},
    "linearizability": {"errors"},
    "http2": {"errors"},
    "grpc": {"http2"},
    "etcd_pb": set(),
    "storage": {"raft", "wire"},
    "transport": {"raft", "wire"},
    "replica": {"raft", "machine"},
    "kv": {"machine", "etcd_pb"},
    "etcd": {"kv", "replica", "grpc", "etcd_pb"},
    "client": {"grpc", "etcd_pb"},
    "bench": {"client", "grpc", "etcd_pb"},
    "server": {"etcd", "kv", "replica", "grpc", "storage", "transport"},
    "sim": {"replica", "storage", "transport", "kv", "linearizability"},
    "visualizer": {"raft", "sim"},
    "testing": {"storage", "transport"},
    "cli": {"server", "client", "bench", "sim", "visualizer"},
    # The package's own door: the everyday face of the library, which puts a replica on a disk and a network.
    "": {"raft", "machine", "replica", "storage", "transport", "server"},
}
"""Package → what it may import directly. "" are the modules that lie directly in `oarlock`."""

PURE = ("errors", "raft", "wire", "machine", "linearizability", "http2", "etcd_pb")
IMPURE_FILES = {"http2/aio.py"}
PURE_FILES = ("grpc/framing.py", "grpc/metadata.py", "grpc/status.py")

_IMPURE = """
asyncio threading _thread multiprocessing concurrent socket select selectors ssl signal subprocess os io
fcntl mmap shutil tempfile glob time datetime secrets uuid sys platform uvloop lmdb logging
"""
IMPURE_MODULES = frozenset(_IMPURE.split())
IMPURE_CALLS = frozenset({"open", "input", "print", "exec", "eval", "compile", "__import__", "id", "hash"})
NEVER = frozenset({"pickle", "marshal", "shelve", "dill", "cloudpickle"})
"""Forbidden everywhere: nothing on the wire or on disk can run code."""


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))


def package_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    if len(parts) > 1:
        return parts[0]
    return "errors" if parts[0] == "errors.py" else ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every absolute module name imported, with its line; relative imports are resolved."""
    package = ["oarlock", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, name
            if name == "oarlock":
                yield from ((node.lineno, f"oarlock.{alias.name}") for alias in node.names)


def allowed(package: str) -> set[str]:
    """The transitive closure of the package's row, itself and `errors` included."""
    seen: set[str] = set()
    todo = [package, "errors"]
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo.extend(LAYERS[name])
    return seen


def is_pure(path: Path) -> bool:
    name = path.relative_to(SOURCE).as_posix()
    return name in PURE_FILES or (package_of(path) in PURE and name not in IMPURE_FILES)


def label(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_every_package_has_a_row_in_the_layer_table() -> None:
    packages = {package_of(path) for path in modules()}
    assert packages <= set(LAYERS), f"not in the table: {sorted(packages - set(LAYERS))}"


def test_the_layer_table_has_no_cycles() -> None:
    for package, below in LAYERS.items():
        for name in below:
            assert package not in allowed(name), f"{package} and {name} may import each other"


@pytest.mark.parametrize("path", modules(), ids=label)
def test_imports_point_down(path: Path) -> None:
    package = package_of(path)
    may = allowed(package)
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "oarlock" or len(parts) == 1:
            continue
        target = parts[1] if parts[1] in LAYERS else ""
        if package == "" and target == "":
            continue
        if target == "" and package in {"cli", "server"} and parts[1].startswith("__"):
            continue  # the version, for people
        assert target in may, f"{label(path)}:{line} imports {name}; {package or 'the top'} may not"


@pytest.mark.parametrize("path", modules(), ids=label)
def test_nothing_that_can_run_code_from_bytes_is_imported(path: Path) -> None:
    for line, name in imports(path):
        assert name.split(".")[0] not in NEVER, f"{label(path)}:{line} imports {name}"


@pytest.mark.parametrize("path", [path for path in modules() if package_of(path) != "testing"], ids=label)
def test_no_assert_statement_guards_production_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), (
            f"{label(path)}:{node.lineno}: `python -O` removes assert; use invariant()"
        )


PURE_PATHS = [path for path in modules() if is_pure(path)]


@pytest.mark.parametrize("path", PURE_PATHS, ids=label)
def test_pure_modules_import_nothing_of_the_outside_world(path: Path) -> None:
    for line, name in imports(path):
        root = name.split(".")[0]
        assert root not in IMPURE_MODULES, f"{label(path)}:{line} imports {name}; it is to be pure"
        if root == "pathlib":
            assert label(path) == "errors.py", f"{label(path)}:{line} imports pathlib; it is to be pure"


@pytest.mark.parametrize("path", PURE_PATHS, ids=label)
def test_pure_modules_take_chance_as_an_argument(path: Path) -> None:
    """`random.Random` may be named as a type; drawing from the module or making a generator is not pure."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            names = {alias.name for alias in node.names}
            assert names == {"Random"}, f"{label(path)}:{node.lineno} imports {names} from random"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            # A parameter or attribute called `random` is what we want; only the module is not.
            imported = any(name == "random" for _, name in imports(path))
            assert not imported or node.attr == "Random", f"{label(path)}:{node.lineno}: random.{node.attr}"
        if isinstance(node, ast.Call):
            made = ast.unparse(node.func)
            assert made not in {"Random", "random.Random"}, f"{label(path)}:{node.lineno} makes a generator"


@pytest.mark.parametrize("path", PURE_PATHS, ids=label)
def test_pure_modules_call_nothing_impure(path: Path) -> None:
    """No files, no console, and no `id()` or `hash()`: they differ between two equal runs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS, f"{label(path)}:{node.lineno} calls {node.func.id}()"


@pytest.mark.parametrize("path", PURE_PATHS, ids=label)
def test_pure_modules_never_iterate_over_a_set_expression(path: Path) -> None:
    """Its order differs between two processes. Sort first."""
    for node in ast.walk(ast.parse(path.read_text())):
        iterables = []
        if isinstance(node, ast.For):
            iterables = [node.iter]
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
            iterables = [generator.iter for generator in node.generators]
        for iterable in iterables:
            made_here = isinstance(iterable, ast.Set | ast.SetComp) or (
                isinstance(iterable, ast.Call)
                and isinstance(iterable.func, ast.Name)
                and iterable.func.id in {"set", "frozenset"}
            )
            assert not made_here, f"{label(path)}:{iterable.lineno} iterates over a set"


def test_only_the_http2_shell_knows_asyncio() -> None:
    users = {
        label(path) for path in modules() if any(name.startswith("asyncio") for _, name in imports(path))
    }
    assert {name for name in users if name.startswith("http2/")} <= {"http2/aio.py"}


def test_nothing_committed_is_longer_than_a_reader_stands() -> None:
    """One idea per file. Generated code is not read."""
    for path in modules():
        lines = len(path.read_text().splitlines())
        assert lines <= 700, f"{label(path)} has {lines} lines: split it by idea"


def test_every_module_says_what_it_is_for() -> None:
    for path in modules():
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert re.search(r"\w", text or ""), f"{label(path)} has no module docstring"
