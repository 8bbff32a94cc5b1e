"""Which precision goes with which task and target: the one table behind the refusals and the documentation."""

from dataclasses import dataclass
from typing import Final

from fathom_export.errors import InvalidPrecisionError

PRECISIONS: Final = ("fp32", "fp16", "int8", "int4", "fp8")


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell: what a valid precision means there, or why another is not valid."""

    task: str
    target: str
    precision: str
    valid: bool
    text: str


ENCODER_TARGET: Final = "onnxruntime"
VLLM_TARGET: Final = "vllm"
DEVICE_TARGET: Final = "device"

_ENCODER_TASKS: Final = ("embed", "rerank", "classify")

TARGETS: Final = {
    ("generate", "cpu"): "ONNX Runtime on CPU",
    ("generate", "portable"): "TensorRT plans, any conforming runtime",
    ("generate", "cuda"): "ONNX Runtime on CUDA",
    ("generate", VLLM_TARGET): "Triton's vLLM backend, which computes the checkpoint itself",
    ("generate", DEVICE_TARGET): "ONNX Runtime alone, on a device without Triton",
    **{(task, ENCODER_TARGET): "Triton's onnxruntime backend, TensorRT plans" for task in _ENCODER_TASKS},
}
"""Every pair of task and target, and what runs it. A decoder's target is its dialect, another engine, or a device."""


def _entries(task: str, target: str, valid: dict[str, str], invalid: dict[str, str]) -> tuple[Entry, ...]:
    texts = valid | invalid
    return tuple(Entry(task, target, name, name in valid, texts[name]) for name in PRECISIONS)


def _encoder_entries(task: str) -> tuple[Entry, ...]:
    return _entries(
        task,
        ENCODER_TARGET,
        {
            "fp32": "everything in float32",
            "fp16": "for a GPU: weights and activations in float16; norms, pooling and what follows in float32",
            "int8": "for CPU: int8 weights with one scale a column, uint8 activations with one scale a token",
            "fp8": "for a TensorRT plan: fp8 e4m3 weights with one scale a column, activations with one scale a "
            "tensor, calibrated on a text that is given; the rest as in fp16",
        },
        {"int4": "an encoder computes whole batches, for which blocks of 4 bits are slower than int8"},
    )


TABLE: Final = (
    *_entries(
        "generate",
        "cpu",
        {
            "fp32": "everything in float32",
            "int8": "int8 weights with one scale a column, uint8 activations with one scale a row",
            "int4": "int4 weights in blocks of 32 or 128, int8 activations by block; embedding and LM head int8",
        },
        {
            "fp16": "ONNX Runtime's CPU kernels would cast every float16 tensor to float32 and back",
            "fp8": "no CPU kernel multiplies fp8",
        },
    ),
    *_entries(
        "generate",
        "portable",
        {
            "fp32": "everything in float32",
            "fp16": "weights, activations and cache in float16; norms and softmax in float32",
            "fp8": "fp8 e4m3 weights with one scale a column, activations with one scale a tensor, calibrated; "
            "embedding, LM head and the rest as in fp16",
        },
        {
            "int8": "an activation scale a row is no form that TensorRT takes",
            "int4": "weights in blocks of 4 bits are an operator of ONNX Runtime's own",
        },
    ),
    *_entries(
        "generate",
        "cuda",
        {
            "fp16": "weights, activations and cache in float16; norms and softmax computed in float32",
            "fp8": "fp8 e4m3 weights with one scale for 128 inputs, activations in float16, nothing to calibrate; "
            "embedding, LM head and the rest as in fp16",
        },
        {
            "fp32": "ONNX Runtime's paged attention takes float16 and bfloat16 only",
            "int8": "no CUDA kernel of ONNX Runtime's takes an activation scale a row",
            "int4": "weights in blocks of 4 bits are for the CPU; fp8 halves what a step reads at far less loss",
        },
    ),
    *_entries(
        "generate",
        VLLM_TARGET,
        {
            "fp32": "everything in float32",
            "fp16": "everything in float16; `bf16` in bfloat16, `auto` as the checkpoint has it",
            "fp8": "weights in fp8 e4m3 with one scale a tensor, made while they are loaded, and activations scaled as "
            "they come; a checkpoint that is in fp8 already as it is",
        },
        {
            "int8": "vLLM makes none while it loads; name a checkpoint that is quantised so, and leave precision out",
            "int4": "vLLM makes none while it loads; name a checkpoint that is quantised so, and leave precision out",
        },
    ),
    *_entries(
        "generate",
        DEVICE_TARGET,
        {
            "int8": "int8 weights with one scale a column, uint8 activations with one scale a row",
            "int4": "int4 weights in blocks of 32 or 128, int8 activations by block; embedding and LM head int8",
        },
        {
            "fp32": "four times the size of int8, for which a device has no room",
            "fp16": "ONNX Runtime's CPU kernels would cast every float16 tensor to float32 and back",
            "fp8": "no CPU kernel multiplies fp8",
        },
    ),
    *(entry for task in _ENCODER_TASKS for entry in _encoder_entries(task)),
)


def valid_precisions(task: str, target: str) -> tuple[str, ...]:
    """The precisions of a task and target; empty where the pair is unknown."""
    return tuple(entry.precision for entry in TABLE if (entry.task, entry.target) == (task, target) and entry.valid)


def refusal(task: str, target: str, precision: str) -> str | None:
    """Why a precision does not go with a task and target, and what does; None where it does."""
    if precision in valid_precisions(task, target):
        return None
    kind = "dialect"
    if task != "generate" or target == DEVICE_TARGET:
        kind = "target"
    elif target == VLLM_TARGET:
        kind = "engine"
    reasons = [
        entry.text for entry in TABLE if (entry.task, entry.target, entry.precision) == (task, target, precision)
    ]
    reason = f" ({reasons[0]})" if reasons else ""
    pairs = "; ".join(f"{other}: {', '.join(valid_precisions(task, other))}" for name, other in TARGETS if name == task)
    return f"precision {precision!r} does not go with {kind} {target!r}{reason}; valid pairs: {pairs}"


def require_valid(task: str, target: str, precision: str) -> None:
    """Raise InvalidPrecisionError, naming the valid precisions, unless the precision goes with the task and target."""
    message = refusal(task, target, precision)
    if message is not None:
        raise InvalidPrecisionError(message)


def markdown() -> str:
    """The table as docs/precisions.md shows it."""
    lines = [f"| task | target | {' | '.join(PRECISIONS)} |", f"|---|---|{'---|' * len(PRECISIONS)}"]
    for (task, target), runs_on in TARGETS.items():
        cells = [
            entry.text if entry.valid else f"no: {entry.text}"
            for entry in TABLE
            if (entry.task, entry.target) == (task, target)
        ]
        lines.append(f"| {task} | `{target}`, {runs_on} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
