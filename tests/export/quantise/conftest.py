"""Checkpoints and graphs, each made once a session."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from tests.export.decoder.checkpoints import write_checkpoint

from fathom_export.decoder import build_decoder
from fathom_export.spec.quantisation import Quantisation
from fathom_server.engine.settings import (
    GRAPH_FILE,
    INPUT_IDS,
    LOGIT_POSITIONS,
    LOGITS,
    POSITION_IDS,
    SEQLENS_K,
    TOTAL_SEQUENCE_LENGTH,
    WRITE_INDICES,
    GraphDescription,
    past_name,
)

ROOT = Path(__file__).parents[3]
REAL_CHECKPOINT = ROOT / "examples" / "models" / "large"

Built = tuple[Path, GraphDescription]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a checkpoint by its kind; ``real`` is the larger example, which is trained."""
    folders: dict[str, Path] = {"real": REAL_CHECKPOINT}

    def make(kind: str) -> Path:
        if kind == "real" and not (REAL_CHECKPOINT / "model.safetensors").exists():
            pytest.skip(f"{REAL_CHECKPOINT} has no weights; train them as its README says")
        if kind not in folders:
            folders[kind] = write_checkpoint(kind, tmp_path_factory.mktemp(kind))
        return folders[kind]

    return make


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, source: Callable[[str], Path]) -> Callable[..., Built]:
    """Gives the folder and description of a graph by its checkpoint, dialect, precision and settings."""
    graphs: dict[str, Built] = {}

    def make(kind: str, dialect: Any, precision: Any, **settings: Any) -> Built:
        key = repr((kind, dialect, precision, settings))
        if key not in graphs:
            folder = tmp_path_factory.mktemp("graph")
            form = build_decoder(
                source(kind),
                folder,
                dialect=dialect,
                precision=precision,
                quantisation=Quantisation(**settings),
                max_context=128,
            )
            graphs[key] = folder, form
        return graphs[key]

    return make


def logits(built: Built, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """Logits at every position of a prompt, float32 [sequence, vocabulary]; fp8 is computed as written."""
    folder, form = built
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])
    length = len(tokens)
    feeds: dict[str, npt.NDArray[Any]] = {
        INPUT_IDS: np.array([tokens], np.int64),
        LOGIT_POSITIONS: np.arange(length)[np.newaxis],
    }
    if form.dialect == "cpu":
        feeds[SEQLENS_K] = np.array([length - 1], np.int32)
        feeds[TOTAL_SEQUENCE_LENGTH] = np.array(length, np.int32)
    else:
        feeds[POSITION_IDS] = np.arange(length)[np.newaxis]
        feeds[WRITE_INDICES] = np.zeros(1, np.int64)
    cache = np.zeros((1, form.kv_heads, form.max_context, form.head_dim), form.kv_dtype)
    for layer in range(form.layers):
        feeds[past_name(layer, "key")] = feeds[past_name(layer, "value")] = cache
    answer: npt.NDArray[np.float32] = session.run([LOGITS], feeds)[0][0]
    return answer


def cosines(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosine similarity of each row to its counterpart."""
    lengths = np.linalg.norm(some, axis=-1) * np.linalg.norm(others, axis=-1)
    return np.asarray((some * others).sum(axis=-1) / lengths)


@pytest.fixture(scope="session")
def held_out() -> list[int]:
    """A hundred token ids of the examples' held-out set, questions and answers."""
    import json

    from fathom_server.text.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.load(REAL_CHECKPOINT)
    ids: list[int] = []
    with (REAL_CHECKPOINT.parent / "held_out.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            ids += tokenizer.encode_messages(row["messages"]) + tokenizer.encode(row["answer"])
            if len(ids) >= 100:
                break
    return ids[:100]
