"""Runs it all: ``python -m benchmarks.gpu --work FOLDER --results FOLDER``; see docs/gpu.md."""

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.gpu.report import Report, Speed
from benchmarks.gpu.roofline import Chip, decode_floor_s, prefill_floor_s
from benchmarks.peers.checkpoint import ModelShape, write_checkpoint

Found = TypeVar("Found")

ROOT: Final = Path(__file__).resolve().parents[2]
SHAPES: Final = {
    "360m": ModelShape(),
    "1.5b": ModelShape(hidden=2048, layers=24, heads=32, kv_heads=8, head_dim=64, intermediate=8192),
    "8b": ModelShape(hidden=4096, layers=36, heads=32, kv_heads=8, head_dim=128, intermediate=14336),
}
PRECISIONS: Final = ("fp16", "fp8")
DECODE_BATCHES: Final = (1, 4, 16, 64)
PREFILLS: Final = ((1, 512), (1, 2000), (8, 512))
CONTEXT: Final = 512
MAX_CONTEXT: Final = 2048
RUNS: Final = 30
GREEDY_TOKENS: Final = 64
PACKAGES: Final = ("onnxruntime-gpu", "torch", "transformers", "fathom-server", "fathom-export")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything that can be; what fails is named in the report, and the rest goes on."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and graphs; used again")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    parser.add_argument(
        "--shapes", nargs="+", choices=[*SHAPES], default=["360m", "1.5b"], help="random models' shapes"
    )
    options = parser.parse_args(arguments)

    from benchmarks.gpu.measure import chip_limits

    from fathom_server.engine.runner.cuda_device import require_cuda
    from fathom_server.errors import SettingsError

    try:
        require_cuda("fp16")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    chip = chip_limits()
    faults: list[str] = []
    parity: dict[str, Any] = {}
    accuracy: dict[str, Any] = {}
    speeds: list[Speed] = []
    for precision in PRECISIONS:
        found = attempt(faults, f"parity, {precision}", partial(greedy_parity, options.work, precision))
        parity |= {} if found is None else {precision: found}
        found = attempt(faults, f"accuracy, {precision}", partial(held_out, options.work, precision))
        accuracy |= {} if found is None else {precision: found}
        for name in options.shapes:
            work = partial(speed_of, options.work, name, precision, chip)
            speeds += attempt(faults, f"speed, {name} {precision}", work) or []
    report = Report(
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        commit(),
        gpu_name(),
        versions(),
        asdict(chip),
        parity,
        accuracy,
        tuple(speeds),
        tuple(faults),
    )
    path = report.save(options.results)
    sys.stdout.write("\n".join([*report.lines(), str(path)]) + "\n")
    return 1 if faults else 0


def attempt(faults: list[str], what: str, work: Callable[[], Found]) -> Found | None:
    """What a part measured; of one that fails a line is kept, its trace shown, and None given."""
    from benchmarks.gpu.measure import let_go

    sys.stderr.write(f"{what}\n")
    try:
        return work()
    except Exception as error:  # a whole part that fails must not cost the others' figures
        traceback.print_exc()
        faults.append(f"{what}: {error!r}")
        return None
    finally:
        let_go()


def exported(source: Path, work: Path, name: str, precision: str, max_batch: int) -> Path:
    """A version's folder with the graph of the cuda dialect; what is there is used again."""
    from fathom_export.decoder import build_decoder, eos_token_ids
    from fathom_export.repository.tokenizer_files import copy_tokenizer
    from fathom_server.engine.settings import ENGINE_FILE, EngineLimits, EngineSettings

    folder = work / f"{name}-{precision}"
    if not (folder / ENGINE_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        graph = build_decoder(source, folder, dialect="cuda", precision=precision, max_context=context_of(source))  # type: ignore[arg-type]
        copy_tokenizer(source, folder)
        limits = EngineLimits(max_batch=max_batch, max_context=graph.max_context, prefill_chunk=2048)
        EngineSettings(graph, limits, eos_token_ids(source)).save(folder)
    return folder


def context_of(source: Path) -> int:
    """The context to export for."""
    from fathom_export.decoder.architecture import DecoderArchitecture

    return min(MAX_CONTEXT, DecoderArchitecture.load(source).max_positions)


def held_out_rows() -> list[Any]:
    """The held-out tasks of the example models."""
    from fathom_export.quality.held_out import read_held_out

    return list(read_held_out(ROOT / "examples" / "models" / "held_out.jsonl"))


def greedy_parity(work: Path, precision: str) -> dict[str, Any]:
    """Greedy answers of ``large`` to held-out prompts, ours and transformers' float16 on this chip."""
    from benchmarks.gpu.measure import OurModel, TransformersModel

    from fathom_server.text.tokenizer import TextTokenizer

    source = ROOT / "examples" / "models" / "large"
    folder = exported(source, work, "large", precision, 16)
    tokenizer = TextTokenizer.load(folder)
    prompts = [list(tokenizer.encode_messages(row.messages)) for row in held_out_rows()[::40]]
    ours, theirs = OurModel(folder), TransformersModel(source)
    room = context_of(source) - GREEDY_TOKENS
    pairs = [
        (ours.greedy(prompt, GREEDY_TOKENS), theirs.greedy(prompt, GREEDY_TOKENS))
        for prompt in prompts
        if 0 < len(prompt) <= room
    ]
    same = [matching(own, other) for own, other in pairs]
    return {
        "prompts": len(pairs),
        "tokens_each": GREEDY_TOKENS,
        "identical_answers": sum(count == GREEDY_TOKENS for count in same),
        "tokens_before_the_first_difference": same,
    }


def matching(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two answers share from their beginning."""
    return next((place for place, pair in enumerate(zip(some, others, strict=False)) if pair[0] != pair[1]), len(some))


def held_out(work: Path, precision: str) -> dict[str, Any]:
    """Right answers of ``large`` to its held-out tasks, through the engine, sixteen at once."""
    from fathom_export.quality.accuracy import task_accuracy
    from fathom_server.text.tokenizer import TextTokenizer

    folder = exported(ROOT / "examples" / "models" / "large", work, "large", precision, 16)
    found = task_accuracy(folder, None, held_out_rows(), TextTokenizer.load(folder), {})
    return {} if found is None else asdict(found)


def speed_of(work: Path, name: str, precision: str, chip: Chip) -> list[Speed]:
    """Decode and prefill of a random model by batch, ours and transformers' in turn."""
    from benchmarks.gpu.measure import OurModel, TransformersModel, repeated

    shape, source = SHAPES[name], work / name
    write_checkpoint(source, shape)
    ours = OurModel(exported(source, work, name, precision, max(DECODE_BATCHES)))
    theirs = TransformersModel(source)
    speeds = []
    for batch in DECODE_BATCHES:
        floor = decode_floor_s(shape, precision, batch, CONTEXT, chip)
        own, other = (repeated(model.decode(batch, CONTEXT), RUNS) for model in (ours, theirs))
        speeds.append(Speed(name, precision, "decode", batch, CONTEXT, own, other, floor))
    for batch, tokens in PREFILLS:
        floor = prefill_floor_s(shape, precision, batch, tokens, chip)
        own, other = (repeated(model.prefill(batch, tokens), RUNS) for model in (ours, theirs))
        speeds.append(Speed(name, precision, "prefill", batch, tokens, own, other, floor))
    return speeds


def commit() -> str:
    """The working tree's commit, "unknown" outside of one."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def gpu_name() -> str:
    """The first visible GPU."""
    import torch

    return torch.cuda.get_device_name(0)


def versions() -> dict[str, str]:
    """Versions of what is measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


if __name__ == "__main__":
    sys.exit(main())
