"""``completion``: a script that completes this command in a shell."""

import argparse
from typing import Final

from fathom_client._commands import exit_status

SHELLS: Final = ("bash", "zsh", "fish")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", root: argparse.ArgumentParser) -> None:
    """Describe the command, which completes ``root`` and all of its commands."""
    added = commands.add_parser(
        "completion",
        help="print a script that completes this command in a shell",
        description="Print a script that completes this command in a shell.",
        epilog="examples:\n"
        '  bash: eval "$(fathom-client completion bash)"  # in ~/.bashrc\n'
        '  zsh:  eval "$(fathom-client completion zsh)"   # in ~/.zshrc, behind compinit\n'
        "  fish: fathom-client completion fish > ~/.config/fish/completions/fathom-client.fish",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.add_argument("shell", choices=SHELLS, help="the shell")

    def complete(options: argparse.Namespace) -> int:
        import shtab

        print(shtab.complete(root, shell=options.shell))
        return exit_status.DONE

    added.set_defaults(run=complete)
