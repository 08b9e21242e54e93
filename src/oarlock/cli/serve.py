"""`oarlock serve`: the flags are etcd's and are read as Go reads them, so click only hands them on."""

from __future__ import annotations

import os

import click

_HELP = frozenset({"-h", "-help", "--help"})


class _Serve(click.Command):
    """Its help comes from the table of flags, and its arguments are not click's to read."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if _HELP.intersection(args):
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params["flags"] = tuple(args)
        return []

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from oarlock.server.options import CONFIG_FILE, OBEYED

        formatter.write_text("Usage: oarlock serve [FLAGS]")
        formatter.write_paragraph()
        formatter.write_text("Run one member of a cluster. Flags are written --flag value or --flag=value.")
        with formatter.section("Flags"):
            rows = []
            for option in (*OBEYED, CONFIG_FILE):
                default = f" [{option.default}]" if option.default else ""
                rows.append((f"--{option.flag} {option.metavar}".rstrip(), option.help + default))
            formatter.write_dl(rows)
        formatter.write_paragraph()
        formatter.write_text(
            "Each can also be set by an environment variable, OARLOCK_ and the flag in capitals with _ for "
            "-, or as a key of the TOML file given by --config-file. etcd's other flags are accepted with a "
            "warning where ignoring them is harmless, and refused where it is not."
        )


@click.command("serve", cls=_Serve)
def serve_command(flags: tuple[str, ...]) -> int:
    """Run one member of a cluster until SIGTERM or Ctrl-C."""
    from oarlock.server.config import load_settings
    from oarlock.server.running import run

    return run(load_settings(flags, os.environ))
