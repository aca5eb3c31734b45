"""``rtprov completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from rtprov.cli.main import main


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: rtprov completion bash > ~/.local/share/bash-completion/completions/rtprov
    zsh:  rtprov completion zsh > a folder of $fpath, as _rtprov
    fish: rtprov completion fish > ~/.config/fish/completions/rtprov.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "rtprov", "_RTPROV_COMPLETE").source())
