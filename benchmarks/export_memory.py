"""Peak memory and speed of exporting a decoder far larger than memory allows to hold.

Writes a random Llama of 3.2 B parameters in bf16 (about 6.4 GB, in shards) into a temporary folder, exports it in a
process of its own for each precision, and copies the files that it wrote, as the disk's own speed. fp8 is calibrated on
text that the model writes, which runs it in float32. Needs about 35 GB of disk, which are freed at the end.

    python -m benchmarks.export_memory --folder /tmp --precisions fp32 int8

"Anonymous" is what the process holds itself; the resident set also counts pages of files that the system may drop.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fathom_server.engine.settings import GRAPH_FILE

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCABULARY = 3072, 28, 24, 8, 128, 8192, 128_256
SHARD_BYTES = 1 << 30
MIB = 1 << 20
SAMPLE_S = 0.02
DIALECTS = {"fp32": "cpu", "int8": "cpu", "int4": "cpu", "fp16": "portable", "fp8": "portable"}

EXPORT = """
import sys, pathlib
from fathom_export.decoder import build_decoder
build_decoder(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), dialect=sys.argv[4], precision=sys.argv[3],
              max_context=2048)
"""
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


def tensors() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, as transformers stores a Llama whose head is tied."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (HIDDEN,),
            f"{name}.self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{name}.self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{name}.self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{name}.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{name}.post_attention_layernorm.weight": (HIDDEN,),
            f"{name}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{name}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{name}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return shapes | {"model.norm.weight": (HIDDEN,)}


def write_checkpoint(folder: Path) -> int:
    """Write config.json and random bf16 safetensors in shards, one tensor in memory at a time; gives the bytes."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": INTERMEDIATE,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "rope_theta": 500_000.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in tensors().items():
        if filled > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += 2 * int(np.prod(shape))
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(shard, path.name)
        write_shard(path, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write one safetensors file: norms of 1, and values of either sign between 1/128 and 1/64."""
    generator = np.random.default_rng(sum(path.name.encode()))
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            rest = int(np.prod(shape))
            while rest:
                count = min(rest, 16 * MIB)
                bits = np.frombuffer(generator.bytes(2 * count), np.uint16)
                file.write(np.full(count, 0x3F80, np.uint16) if len(shape) == 1 else (bits & 0x807F) | 0x3C00)
                rest -= count


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


def measure(source: Path, source_bytes: int, precision: str, folder: Path, *, load: bool) -> None:
    """Export once, copy what it wrote, and say what both took."""
    destination, copies = folder / precision, folder / f"{precision}-copy"
    destination.mkdir()
    copies.mkdir()
    began = time.perf_counter()
    command = [sys.executable, "-c", EXPORT, str(source), str(destination), precision, DIALECTS[precision]]
    resident, anonymous = peak_memory(subprocess.Popen(command))
    files = sorted(destination.iterdir())
    for path in files:
        sync(path)
    seconds = time.perf_counter() - began
    written = sum(path.stat().st_size for path in files)
    copying = copy_seconds(files, copies)
    print(
        f"{precision}: {source_bytes / 1e9:.2f} GB of bf16 → {written / 1e9:.2f} GB in {seconds:.1f} s, "
        f"{written / seconds / 1e6:.0f} MB/s written (copying the same files: {written / copying / 1e6:.0f} MB/s); "
        f"peak resident {resident / 1024:.0f} MiB, of it anonymous {anonymous / 1024:.0f} MiB",
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
    parser.add_argument("--precisions", nargs="+", choices=tuple(DIALECTS), default=list(DIALECTS))
    parser.add_argument(
        "--load", nargs="*", choices=("fp32", "int8", "int4"), default=["int8"], help="load these and compute"
    )
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="export-memory-", dir=settings.folder) as temporary:
        folder = Path(temporary)
        source = folder / "source"
        source.mkdir()
        source_bytes = write_checkpoint(source)
        for precision in settings.precisions:
            measure(source, source_bytes, precision, folder, load=precision in settings.load)


if __name__ == "__main__":
    main()
