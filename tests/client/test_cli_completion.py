"""``fathom-client completion``: the shells themselves complete."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .terminal import Terminal

Cli = Callable[..., subprocess.CompletedProcess[str]]

TYPED = [
    ("fathom-client cl", "fathom-client classify "),
    ("fathom-client chat --sys", "fathom-client chat --system "),
    ("fathom-client unload --with", "--with-dependents"),
    ("fathom-client --ur", "fathom-client --url "),
    ("fathom-client completion fi", "fathom-client completion fish "),
    ("fathom-client models --tls-ca authori", "fathom-client models --tls-ca authorities.pem "),
]


def script_of(shell: str, folder: Path) -> Path:
    """The shell's script in a file, beside a file whose name may be completed."""
    done = subprocess.run(
        [sys.executable, "-m", "fathom_client.cli", "completion", shell], capture_output=True, text=True, check=True
    )
    (folder / "authorities.pem").write_text("")
    script = folder / f"completion.{shell}"
    script.write_text(done.stdout)
    return script


@pytest.fixture(params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """An interactive shell that has the completion, at its prompt."""
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param}; apt install {request.param}")
    script = script_of(request.param, tmp_path)
    commands = {
        "bash": ["bash", "--norc", "--noprofile", "-i"],
        "zsh": ["zsh", "-f", "-i"],
    }
    setup = {
        "bash": f"cd {tmp_path}; eval \"$(<{script})\"; PS1='at''> '",
        "zsh": f"cd {tmp_path}; autoload -U compinit; compinit -u -D; eval \"$(<{script})\"; PS1='at''> '",
    }
    terminal = Terminal(*commands[request.param], HOME=str(tmp_path))
    try:
        terminal.type(setup[request.param] + "\n")
        terminal.expect("at> ")
        yield terminal
    finally:
        terminal.close()


def test_tab_completes_in_the_shell(shell: Terminal) -> None:
    """Tab after the beginning of a command, a flag, a choice or a file completes or shows it."""
    for typed, completed in TYPED:
        shell.type(typed + "\t")
        shell.expect(completed)
        shell.type("\x15")  # Ctrl-U clears the line
        shell.type("\n")
        shell.expect("at> ")


def test_fish_completes(tmp_path: Path) -> None:
    """Fish offers the commands with their meanings, and flags."""
    if shutil.which("fish") is None:
        pytest.skip("needs fish; apt install fish")
    script = script_of("fish", tmp_path)

    def offered(typed: str) -> str:
        return subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete -C {typed!r}"],
            capture_output=True,
            text=True,
            check=True,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        ).stdout

    assert offered("fathom-client cl") == "classify\tLabel texts.\n"
    assert "--system\t" in offered("fathom-client chat --sys")
    assert offered("fathom-client completion fi").startswith("fish")


def test_bash_offers_every_command(tmp_path: Path) -> None:
    """What bash offers after the command's name is every command there is."""
    script = script_of("bash", tmp_path)
    ask = (
        f"source {script}; COMP_WORDS=(fathom-client ''); COMP_CWORD=1; "
        "eval \"$(complete -p fathom-client | sed 's/.*-F \\([^ ]*\\).*/\\1/') fathom-client '' fathom-client\"; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    offered = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    help_ = subprocess.run(
        [sys.executable, "-m", "fathom_client.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = help_.partition("COMMAND\n")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("    ") and line[4] != " "]
    assert set(names) <= set(offered)
    assert {"generate", "chat", "tokenize", "completion"} <= set(names)


def test_unknown_shell_is_a_users_fault(cli: Cli) -> None:
    """A shell without a script is refused with the names of those that have one."""
    done = cli("completion", "tcsh")
    assert (done.stdout, done.returncode) == ("", 2)
    assert "choose from" in done.stderr
    assert "bash" in done.stderr
