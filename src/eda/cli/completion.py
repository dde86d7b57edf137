"""`eda completion`: the script with which a shell completes commands, options and names."""

from __future__ import annotations

import click

__all__ = ["completion"]

VARIABLE = "_EDA_COMPLETE"  # the shell sets it when it asks `eda` for completions


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete what you type after `eda`.

    The shell completes commands, options, and the names of streams, subscriptions and contexts. It asks the server for
    these names, if it answers at once.

    \b
    bash:  echo 'eval "$(eda completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(eda completion zsh)"' >> ~/.zshrc
    fish:  mkdir -p ~/.config/fish/completions
           eda completion fish > ~/.config/fish/completions/eda.fish
    """
    from eda.cli.shells import SHELLS

    click.echo(SHELLS[shell](ctx.find_root().command, {}, "eda", VARIABLE).source(), nl=False)
