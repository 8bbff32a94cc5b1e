"""The launcher tells when it was the kernel that ended a process, for want of memory."""

from pathlib import Path

import pytest

from fathom_server.launcher.memory_kills import MemoryKills

VERSION_2 = ("memory.events", "low 0\nhigh 0\nmax 41\noom 3\noom_kill {}\noom_group_kill 0\n")
VERSION_1 = ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n")


@pytest.mark.parametrize(("name", "form"), [VERSION_2, VERSION_1])
def test_kills_since_the_start_are_told_with_the_remedy(tmp_path: Path, name: str, form: str) -> None:
    """Earlier ones, of others in the group, are not this server's."""
    counter = tmp_path / name
    counter.parent.mkdir(exist_ok=True)
    counter.write_text(form.format(5), encoding="utf-8")
    kills = MemoryKills(tmp_path)
    assert kills.explained("it ended") == "it ended"
    counter.write_text(form.format(7), encoding="utf-8")
    said = kills.explained("it ended")
    assert said.startswith("it ended; the kernel killed 2 of its processes for want of memory: raise the container's")
    assert "\n" not in said


@pytest.mark.parametrize("text", [None, "", "oom_kill\n", "oom_kill many\n", "max 3\n"])
def test_without_a_counter_nothing_is_said(tmp_path: Path, text: str | None) -> None:
    """Kernels and groups that do not count leave the reason as it is."""
    if text is not None:
        (tmp_path / "memory.events").write_text(text, encoding="utf-8")
    assert MemoryKills(tmp_path).explained("it ended") == "it ended"


def test_this_machines_own_counter_is_read() -> None:
    """Nothing of this process was killed while the test ran."""
    assert MemoryKills().explained("it ended") == "it ended"
