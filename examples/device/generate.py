"""Generate from a device bundle with onnxruntime and tokenizers alone: python generate.py FOLDER PROMPT [TOKENS]."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer


class Generator:
    """One loaded bundle; its cache holds one conversation."""

    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / self.manifest["tokenizer"]))
        options = ort.SessionOptions()
        options.enable_cpu_mem_arena = False  # gives back at once what a step needed
        for name, value in self.manifest["session"].items():
            options.add_session_config_entry(name, value)
        self.session = ort.InferenceSession(str(folder / self.manifest["graph"]), options, ["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        shape = [1, *(self.manifest[name] for name in ("kv_heads", "max_context", "head_dim"))]
        names = [f"{layer}.{part}" for layer in range(self.manifest["layers"]) for part in ("key", "value")]
        self.cache = {name: np.zeros(shape, np.float32) for name in names}
        for name, array in self.cache.items():  # past and present are one memory, written in place
            self.binding.bind_input(f"past.{name}", "cpu", 0, np.float32, shape, array.ctypes.data)
            self.binding.bind_output(f"present.{name}", "cpu", 0, np.float32, shape, array.ctypes.data)

    def step(self, ids: list[int], past: int) -> npt.NDArray[np.float32]:
        """Logits [vocabulary] after ``ids``, which follow ``past`` tokens of the cache."""
        feeds: dict[str, npt.NDArray[np.int64 | np.int32]] = {
            "input_ids": np.array([ids], np.int64),
            "logit_positions": np.array([[len(ids) - 1]], np.int64),
            "seqlens_k": np.array([past + len(ids) - 1], np.int32),
            "total_sequence_length": np.array(past + len(ids), np.int32),
        }
        for name, value in feeds.items():
            self.binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        logits: npt.NDArray[np.float32] = np.empty(self.manifest["vocabulary"], np.float32)
        self.binding.bind_output("logits", "cpu", 0, np.float32, (1, 1, logits.size), logits.ctypes.data)
        self.session.run_with_iobinding(self.binding)
        return logits

    def generate(self, prompt: list[int], tokens: int) -> Iterator[int]:
        """Yield the likeliest tokens after a prompt, until one of them ends the answer or the context is full."""
        for begin in range(0, len(prompt), self.manifest["prefill_chunk"]):
            logits = self.step(prompt[begin : begin + self.manifest["prefill_chunk"]], begin)
        for past in range(len(prompt), min(len(prompt) + tokens, self.manifest["max_context"])):
            token = int(logits.argmax())
            if token in self.manifest["eos_token_ids"]:
                return
            yield token
            logits = self.step([token], past)


if __name__ == "__main__":
    generator = Generator(Path(sys.argv[1]))
    before, behind = generator.manifest["chat"] or ("", "")
    ids = generator.tokenizer.encode(before + sys.argv[2] + behind, add_special_tokens=before == "").ids
    answer = list(generator.generate(ids, int(sys.argv[3]) if len(sys.argv) > 3 else 64))
    sys.stdout.write(generator.tokenizer.decode(answer) + "\n")
