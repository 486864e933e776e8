"""The group ``config``, and shell completion."""

import json
import os
from pathlib import Path
from typing import Any

import click

from pool_mcp.cli.options import AS_JSON, Command, Group
from pool_mcp.errors import InvalidRequest, PoolError


@click.group(cls=Group)
def config() -> None:
    """Show where the settings are and what they are, or edit them."""


@config.command()
@AS_JSON
def path(as_json: bool) -> None:
    """Print where pool.toml, the ledger and the answers are."""
    from pool_mcp.settings import load

    settings = load(dict(os.environ))
    places = {"settings": settings.config_file, "ledger": settings.ledger_path, "answers": settings.runs_dir}
    if as_json:
        click.echo(json.dumps({name: str(where) for name, where in places.items()}, indent=2))
    else:
        for name, where in places.items():
            click.echo(f"{name:<9} {where}{'' if where.exists() else '  (not there yet)'}")


@config.command()
@AS_JSON
def show(as_json: bool) -> None:
    """Print the settings in force, defaults and environment included."""
    from pool_mcp.settings import load, shown

    found = shown(load(dict(os.environ)))
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for section, values in found.items():
        for title, table in _toml_tables(section, values):
            click.echo(title)
            for key, value in table.items():
                click.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}")


def _toml_tables(section: str, values: Any) -> list[tuple[str, dict[str, Any]]]:
    """A section's tables with their headers."""
    if isinstance(values, list):
        return [(f"\n[[{section}]]", one) for one in values]
    if section == "callers":
        return [(f"\n[callers.{json.dumps(name)}]", one) for name, one in values.items()]
    return [(f"\n[{section}]" if section else "# What is in force, defaults and environment included.", values)]


@config.command()
@AS_JSON
def edit(as_json: bool) -> None:
    """Open pool.toml in your editor, and write it only if it is valid."""
    from pool_mcp.settings import load
    from pool_mcp.setup.onboarding import HEADER
    from pool_mcp.system import places, textfile

    env = dict(os.environ)
    file = places.directories(env)[0] / "pool.toml"
    before = textfile.read(file)
    text = before or HEADER
    while True:
        try:
            edited = click.edit(text, extension=".toml", require_save=True)
        except UnicodeDecodeError:
            raise InvalidRequest(f"What was written is not text in UTF-8; {file} is as it was.") from None
        if edited is None or edited == before:
            _say_edited(file, changed=False, as_json=as_json)
            return
        try:
            load(env, edited)
        except PoolError as error:
            click.echo(f"pool-mcp: {error.message}", err=True)
            if not click.confirm("Edit it again?", default=True, err=True):
                raise
            text = edited
        else:
            if textfile.read(file) != before:
                raise InvalidRequest(
                    f"{file} was changed by somebody else meanwhile; nothing was written: edit it again."
                )
            textfile.replace(file, edited)
            _say_edited(file, changed=True, as_json=as_json)
            return


def _say_edited(file: Path, *, changed: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"file": str(file), "changed": changed}))
    else:
        click.echo(f"{file} is {'written' if changed else 'as it was'}.", err=True)


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print what makes your shell complete pool-mcp's commands.

    \b
    bash: eval "$(pool-mcp completion bash)" in ~/.bashrc;
    zsh: the same with zsh in ~/.zshrc, after compinit;
    fish: pool-mcp completion fish > ~/.config/fish/completions/pool-mcp.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "one of the choices"
    click.echo(kind(context.find_root().command, {}, "pool-mcp", "_POOL_MCP_COMPLETE").source())


COMMANDS: tuple[click.Command, ...] = (config, completion)
