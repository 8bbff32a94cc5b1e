"""The journal: what was noted stays noted, wherever the process ends and whatever the disk does."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fathom_synth.errors import OutputError
from fathom_synth.journal import Journal, Lock

RECORDS = {f"k{number}": {"text": f"ü{number}\n" * number} for number in range(6)}


def write_all(path: Path) -> None:
    """Note every record that is not there yet."""
    with Journal(path) as journal:
        for key, record in RECORDS.items():
            if key not in journal:
                journal.add(key, record)


def test_a_journal_cut_off_at_any_byte_goes_on_without_loss_or_repetition(tmp_path: Path) -> None:
    """For every length at which a kill may leave the file, the next run brings it to the same bytes."""
    path = tmp_path / "whole.jsonl"
    write_all(path)
    whole = path.read_bytes()
    assert len(whole.splitlines()) == len(RECORDS)
    cut = tmp_path / "cut.jsonl"
    for length in range(len(whole) + 1):
        cut.write_bytes(whole[:length])
        with Journal(cut) as journal:
            assert len(journal) == whole[:length].count(b"\n")
        write_all(cut)
        assert cut.read_bytes() == whole


def test_a_record_reads_as_it_was_written(tmp_path: Path) -> None:
    """Records come back by key, in this run and the next; other keys have none."""
    write_all(tmp_path / "j.jsonl")
    with Journal(tmp_path / "j.jsonl") as journal:
        for key, record in RECORDS.items():
            assert journal.get(key) == {"key": key, **record}
        assert journal.get("other") is None


def test_damage_in_the_middle_is_named_by_its_line(tmp_path: Path) -> None:
    """A line that is no record is not passed over in silence, for then an answer would be lost."""
    path = tmp_path / "j.jsonl"
    write_all(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\x00\n" + lines[2])
    with pytest.raises(OutputError, match=r"j\.jsonl:2: is damaged .*take the line out"):
        Journal(path)


def test_a_full_disk_leaves_whole_records_and_an_error_that_says_so(tmp_path: Path) -> None:
    """Where the file may grow no further, the torn record is taken back, and with room the journal goes on."""
    path = tmp_path / "j.jsonl"
    write_all(path)
    whole = path.read_bytes()
    path.unlink()
    script = (
        "import sys; from pathlib import Path; from tests.synth.test_synth_journal import write_all\n"
        "from fathom_synth.errors import OutputError\n"
        "try:\n    write_all(Path(sys.argv[1]))\n"
        "except OutputError as error:\n    sys.exit(str(error))"
    )
    limit = len(whole) - 5

    def bound() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    full = subprocess.run(
        [sys.executable, "-c", script, str(path)], preexec_fn=bound, capture_output=True, text=True, check=False
    )
    assert full.returncode == 1
    assert "there is no room for it (File too large); what was answered is kept: make room" in full.stderr
    kept = path.read_bytes()
    assert whole.startswith(kept)
    assert kept.endswith(b"\n")
    assert [json.loads(line)["key"] for line in kept.splitlines()] == list(RECORDS)[:-1]
    write_all(path)
    assert path.read_bytes() == whole


def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    """A second run is refused while the first lives, and not after."""
    with Lock(tmp_path / "out"), pytest.raises(OutputError, match="another run writes here"):
        Lock(tmp_path / "out")
    with Lock(tmp_path / "out"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the folder's place is an error that says what to do."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"out: cannot be written \(File exists\); choose another output"):
        Lock(tmp_path / "out")
