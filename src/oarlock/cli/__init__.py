"""The command line: `oarlock serve`, `put`, `get`, `member`, `endpoint`, `doctor`, … (see `_COMMANDS`).

Each command lives in a module of its own that is only imported when the command runs, so that
`oarlock --help` answers at once. Exit codes: 0 done, 1 the request failed, 2 wrong use. An error is one
line on standard error.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from oarlock.errors import DataDirError, OarlockError, UsageError

_COMMANDS = {
    "bench": ("oarlock.cli.bench", "Measure a cluster: throughput and latency."),
    "del": ("oarlock.cli.kv", "Delete a key or a range of keys."),
    "demo": ("oarlock.cli.demo", "Run three members on this machine; --check kills them and verifies."),
    "doctor": ("oarlock.cli.doctor", "Say why there is no leader or no progress, and what to do."),
    "endpoint": ("oarlock.cli.endpoint", "Show how each server is: status, health."),
    "get": ("oarlock.cli.kv", "Read a key or a range of keys."),
    "member": (
        "oarlock.cli.member",
        "Show and change the members: list, add, promote, remove, update, change.",
    ),
    "move-leader": ("oarlock.cli.leader", "Hand the leadership over to another member."),
    "put": ("oarlock.cli.kv", "Write a key."),
    "serve": ("oarlock.cli.serve", "Run one member of a cluster; takes etcd's flags."),
    "version": ("oarlock.cli.version", "Print the versions."),
}
"""Command → the module that defines it as `<command>_command`, and its line in the help."""


class _Lazy(click.Group):
    """A group whose commands are imported when used; the help needs only their lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(_COMMANDS.items())])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def oarlock() -> None:
    """Oarlock: a consistent key-value store that speaks the etcd v3 API."""


def main() -> None:
    """Entry point of the `oarlock` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line.

    Returns:
        the exit code.
    """
    try:
        result = oarlock.main(arguments, prog_name="oarlock", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        print(f"oarlock: {error.format_message()}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"oarlock: {error.format_message()}", file=sys.stderr)
        return 1
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OarlockError as error:
        print(f"oarlock: {'; '.join([str(error), *getattr(error, '__notes__', [])])}", file=sys.stderr)
        return 2 if isinstance(error, UsageError | DataDirError) else 1
    except BrokenPipeError:
        # The reader of our output left (`oarlock get … | head`): that is not an error worth a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
