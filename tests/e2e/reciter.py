"""A checkpoint that recites a text: a real Llama whose weights say which token follows which.

Embeddings are one-hot, attention and MLP add nothing, and the LM head maps each token to its successor, so a greedy
answer is known in advance, whatever the text holds. Every character is cut into tokens in the middle of its bytes.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from fathom_server.text.token_bytes import byte_characters

PLANES = 17
HEAD_DIM = 16
END = "<|end|>"
START = "<|start|>"
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def planes_text() -> str:
    """One character of every Unicode plane, no two alike in either half of their bytes."""
    return "".join(chr((plane << 16) + 0x3042 + 0x41 * plane) for plane in range(PLANES))


def write_reciter(folder: Path, text: str) -> None:
    """Write a checkpoint that answers the prompt ``START`` with ``text``.

    The text is cut into pieces of one or two bytes; raises ValueError if a piece occurs twice, since then two
    successors would be asked of one token.
    """
    pieces = _pieces(text)
    if len(set(pieces)) != len(pieces):
        raise ValueError("a piece of the text occurs twice")
    characters = byte_characters()
    tokens = ["".join(characters[byte] for byte in piece) for piece in pieces]
    vocabulary = {END: 0, START: 1} | {token: place + 2 for place, token in enumerate(tokens)}
    _write_tokenizer(folder, vocabulary)
    order = [1, *range(2, len(vocabulary)), 0]  # start, the pieces, the end
    _write_weights(folder, order)


def write_speaker(folder: Path, answer: str, template: str, marks: Sequence[str] = ()) -> None:
    """Write a checkpoint that answers every conversation with ``answer``, which may repeat itself.

    ``template`` is its chat template; ``marks`` are special tokens, each at most once in the answer. Raises ValueError
    where the answer cannot be cut into pieces that differ.
    """
    characters = byte_characters()
    vocabulary = {END: 0, START: 1}
    for piece in _different_pieces(answer, marks):
        token = piece if piece in marks else "".join(characters[byte] for byte in piece.encode())
        vocabulary[token] = len(vocabulary)
    _write_tokenizer(folder, vocabulary, template + "{{- '" + START + "' }}", marks)
    _write_weights(folder, [1, *range(2, len(vocabulary)), 0], positions=4096)


def _different_pieces(text: str, marks: Sequence[str]) -> list[str]:
    """Pieces of a text, as short as they can be with no two alike; a mark is a piece."""
    pieces: list[str] = []
    place = 0
    while place < len(text):
        mark = next((mark for mark in marks if text.startswith(mark, place)), None)
        following = min((at for mark in marks if (at := text.find(mark, place)) >= 0), default=len(text))
        lengths = range(1, following - place + 1)
        piece = mark or next(
            (text[place : place + size] for size in lengths if text[place : place + size] not in pieces), None
        )
        if piece is None:  # the text's last characters: they join the piece before
            piece = pieces.pop() + text[place:following]
            place = following - len(piece)
        if piece in pieces:
            raise ValueError(f"{piece!r} occurs twice")
        pieces.append(piece)
        place += len(piece)
    return pieces


def _pieces(text: str) -> list[bytes]:
    pieces = []
    for character in text:
        data = character.encode()
        middle = max(1, len(data) // 2)
        pieces += [part for part in (data[:middle], data[middle:]) if part]
    return pieces


def _write_tokenizer(
    folder: Path, vocabulary: dict[str, int], template: str = PLAIN_TEMPLATE, marks: Sequence[str] = ()
) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in (END, START, *marks)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "", "eos_token": END, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_weights(folder: Path, order: list[int], positions: int = 1024) -> None:
    size = len(order)
    hidden = size + size % 2
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "vocab_size": size,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    embedding = np.eye(size, hidden, dtype=np.float32)
    head = np.zeros((size, hidden), dtype=np.float32)
    for token, successor in zip(order, [*order[1:], order[0]], strict=True):
        head[successor, token] = 1.0
    layer = "model.layers.0."
    save_file(
        {
            "model.embed_tokens.weight": embedding,
            "lm_head.weight": head,
            "model.norm.weight": np.ones(hidden, dtype=np.float32),
            f"{layer}input_layernorm.weight": np.ones(hidden, dtype=np.float32),
            f"{layer}post_attention_layernorm.weight": np.ones(hidden, dtype=np.float32),
            f"{layer}self_attn.q_proj.weight": np.zeros((HEAD_DIM, hidden), dtype=np.float32),
            f"{layer}self_attn.k_proj.weight": np.zeros((HEAD_DIM, hidden), dtype=np.float32),
            f"{layer}self_attn.v_proj.weight": np.zeros((HEAD_DIM, hidden), dtype=np.float32),
            f"{layer}self_attn.o_proj.weight": np.zeros((hidden, HEAD_DIM), dtype=np.float32),
            f"{layer}mlp.gate_proj.weight": np.zeros((4, hidden), dtype=np.float32),
            f"{layer}mlp.up_proj.weight": np.zeros((4, hidden), dtype=np.float32),
            f"{layer}mlp.down_proj.weight": np.zeros((hidden, 4), dtype=np.float32),
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
