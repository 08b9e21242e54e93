"""Commands and queries are typed end to end: a wrong argument is an error in the editor."""

from __future__ import annotations

import re
from pathlib import Path

from mypy import api

USE = """
import oarlock

class Counter(oarlock.StateMachine):
    def __init__(self) -> None:
        self.value = 0

    @oarlock.command
    def add(self, amount: int, note: str = "") -> int:
        self.value += amount
        return self.value

    @oarlock.query
    def read(self) -> int:
        return self.value

class Other(oarlock.StateMachine):
    @oarlock.command
    def act(self) -> None: ...

async def use(replica: oarlock.Replica[Counter]) -> None:
    total: int = await replica.submit(Counter.add, 5)
    value: int = await replica.query(Counter.read)
    stale: int = replica.peek(Counter.read)
    await replica.submit(Counter.add, 5, note="x")
    await replica.submit(Counter.add, amount=5)
    await replica.within(0.5).submit(Counter.add, 5)
    value = await replica.stale(0.5).query(Counter.read)
    async with await replica.session() as session:
        total = await session.submit(Counter.add, 5, note="x")
        await session.submit(Counter.add, "5")  # E: arg-type
        await session.submit(Other.act)  # E: arg-type
    replica.machine.value

    await replica.submit(Counter.add, "5")  # E: arg-type
    await replica.submit(Counter.add)  # E: call-arg
    await replica.submit(Counter.add, 5, 6, 7)  # E: call-arg|arg-type
    await replica.submit(Counter.add, 5, remark="x")  # E: call-arg
    await replica.submit(Other.act)  # E: arg-type
    text: str = await replica.submit(Counter.add, 5)  # E: arg-type
    text = await replica.query(Counter.read)  # E: arg-type
    text = replica.peek(Counter.read)  # E: assignment
    await replica.query(Counter.read, 1)  # E: call-arg|arg-type
    await replica.within(0.5).submit(Counter.add, "5")  # E: arg-type

async def assemble() -> None:
    peers = {"a": "http://h:1"}
    async with oarlock.Replica(Counter(), name="a", data_dir="d", initial_cluster=peers) as replica:
        total: int = await replica.submit(Counter.add, 5)
        await replica.submit(Other.act)  # E: arg-type
    oarlock.Replica(object(), name="a", data_dir="d", initial_cluster=peers)  # E: type-var
    oarlock.Replica(Counter(), name="a", initial_cluster=peers)  # E: call-arg
"""


def test_a_wrong_use_is_a_type_error_and_a_right_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "use.py"
    file.write_text(USE)
    # Against the source, not the installed package; nothing but this file is reported on.
    configuration = tmp_path / "mypy.ini"
    source = Path(__file__).parent.parent / "src"
    configuration.write_text(
        f"[mypy]\nstrict = true\nmypy_path = {source}\n[mypy-oarlock.*]\nfollow_imports = silent\n"
    )
    report, complaints, _ = api.run(
        [
            str(file),
            "--config-file",
            str(configuration),
            "--cache-dir",
            str(tmp_path / "cache"),
            "--no-error-summary",
        ]
    )
    assert complaints == ""
    found: dict[int, set[str]] = {}
    for line in report.splitlines():
        if match := re.match(r".*use\.py:(\d+): error: .* \[([a-z-]+)\]$", line):
            found.setdefault(int(match[1]), set()).add(match[2])
        else:
            assert ": note: " in line, line
    expected = {
        number: set(line.rpartition("# E: ")[2].split("|"))
        for number, line in enumerate(USE.splitlines(), start=1)
        if "# E: " in line
    }
    assert found.keys() == expected.keys(), report
    for number, codes in found.items():
        assert codes <= expected[number], report
