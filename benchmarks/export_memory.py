"""Peak memory and speed of exporting a model far larger than memory allows to hold.

Writes a random Llama of 3.2 B parameters (6.4 GB), or a random XLM-RoBERTa of 560 M (1.1 GB), in bf16 and in shards
into a temporary folder, exports it in a process of its own for each precision, and copies the files that it wrote, as
the disk's own speed. fp8 is calibrated on text that the decoder writes, which runs it in float32. Needs up to 35 GB of
disk, which are freed at the end.

    python -m benchmarks.export_memory --folder /tmp --model decoder --precisions fp32 int8

"Anonymous" is what the process holds itself; the resident set also counts pages of files that the system may drop.
With ``--limit-mib`` the system makes it drop them: a control group lets an export have so much of both (root only).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.random_checkpoints import MODELS, RandomModel, write_checkpoint

from fathom_server.engine.settings import GRAPH_FILE

MIB = 1 << 20
SAMPLE_S = 0.02
CONTROL_GROUPS = Path("/sys/fs/cgroup")

LOAD = """
import sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {"input_ids": np.array([[1, 2, 3]]), "logit_positions": np.array([[2]]),
         "seqlens_k": np.array([2], np.int32), "total_sequence_length": np.array(3, np.int32)}
for value in session.get_inputs():
    if value.name.startswith("past."):
        feeds[value.name] = np.zeros((1, value.shape[1], 16, value.shape[3]), np.float32)
logits = session.run(["logits"], feeds)[0]
assert np.isfinite(logits).all() and logits.std() > 0
print(f"loads in onnxruntime {ort.__version__}: logits {logits.shape}, finite")
"""


def peak_memory(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for a process; its highest resident set and its highest sampled anonymous part, in KiB."""
    resident = anonymous = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "RssAnon"))}
        resident = max(resident, int(fields.get("VmHWM", 0)))
        anonymous = max(anonymous, int(fields.get("RssAnon", 0)))
        time.sleep(SAMPLE_S)
    if process.wait():
        raise SystemExit(f"the export failed with status {process.returncode}")
    return resident, anonymous


def copy_seconds(files: list[Path], folder: Path) -> float:
    """Copy files one by one and bring them to the disk; the copies are removed."""
    began = time.perf_counter()
    for path in files:
        shutil.copyfile(path, folder / path.name)
        sync(folder / path.name)
    seconds = time.perf_counter() - began
    for path in files:
        (folder / path.name).unlink()
    return seconds


def sync(path: Path) -> None:
    """Bring a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def limited(limit_mib: int | None) -> Iterator[Callable[[], None] | None]:
    """What a child does first to have no more memory than the limit, page cache and all; None without a limit."""
    if limit_mib is None:
        yield None
        return
    second = (CONTROL_GROUPS / "cgroup.controllers").exists()
    group = (CONTROL_GROUPS if second else CONTROL_GROUPS / "memory") / f"fathom-export-{os.getpid()}"
    group.mkdir()
    (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(limit_mib * MIB))

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    yield enter
    group.rmdir()


def measure(
    source: Path,
    model: RandomModel,
    precision: str,
    folder: Path,
    *,
    source_bytes: int,
    load: bool,
    limit_mib: int | None,
) -> None:
    """Export once, copy what it wrote, and say what both took."""
    destination, copies = folder / precision, folder / f"{precision}-copy"
    destination.mkdir()
    copies.mkdir()
    began = time.perf_counter()
    command = [sys.executable, "-c", model.export, str(source), str(destination), precision, model.forms[precision]]
    with limited(limit_mib) as enter:
        process = subprocess.Popen(command, preexec_fn=enter)
        resident, anonymous = peak_memory(process)
        process.wait()
    if process.returncode:
        sys.exit(f"{precision}: the export ended with status {process.returncode}")
    files = sorted(destination.iterdir())
    for path in files:
        sync(path)
    seconds = time.perf_counter() - began
    written = sum(path.stat().st_size for path in files)
    copying = copy_seconds(files, copies)
    within = "" if limit_mib is None else f", in a control group of {limit_mib} MiB"
    print(
        f"{precision}: {source_bytes / 1e9:.2f} GB of bf16 → {written / 1e9:.2f} GB in {seconds:.1f} s, "
        f"{written / seconds / 1e6:.0f} MB/s written (copying the same files: {written / copying / 1e6:.0f} MB/s); "
        f"peak resident {resident / 1024:.0f} MiB, of it anonymous {anonymous / 1024:.0f} MiB{within}",
        flush=True,
    )
    if load:
        subprocess.run([sys.executable, "-c", LOAD, str(destination / GRAPH_FILE)], check=True)
    shutil.rmtree(destination)
    shutil.rmtree(copies)


def main() -> None:
    """Measure each precision that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder goes")
    parser.add_argument("--model", choices=tuple(MODELS), default="decoder")
    parser.add_argument("--precisions", nargs="+", default=None, help="some of the model's, else all")
    parser.add_argument("--load", nargs="*", default=["int8"], help="load these decoders and compute")
    parser.add_argument(
        "--limit-mib", type=int, default=None, help="memory that an export may have, page cache and all"
    )
    settings = parser.parse_args()
    model = MODELS[settings.model]()
    precisions = settings.precisions or list(model.forms)
    if unknown := set(precisions) - set(model.forms):
        parser.error(f"--precisions {', '.join(sorted(unknown))}: choose from {', '.join(model.forms)}")
    with tempfile.TemporaryDirectory(prefix="export-memory-", dir=settings.folder) as temporary:
        folder = Path(temporary)
        source = folder / "source"
        source.mkdir()
        source_bytes = write_checkpoint(source, model)
        for precision in precisions:
            measure(
                source,
                model,
                precision,
                folder,
                source_bytes=source_bytes,
                load=settings.model == "decoder" and precision in settings.load,
                limit_mib=settings.limit_mib,
            )


if __name__ == "__main__":
    main()
