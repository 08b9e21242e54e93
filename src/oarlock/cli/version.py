"""`oarlock version`."""

from __future__ import annotations

import platform
from importlib.metadata import version

import click


@click.command("version")
def version_command() -> None:
    """Print the versions of Oarlock, of the API that it speaks, and of Python."""
    click.echo(f"oarlock {version('oarlock')}")
    click.echo("etcd API 3.5")
    click.echo(f"Python {platform.python_version()}")
