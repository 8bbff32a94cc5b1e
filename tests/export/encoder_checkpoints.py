"""Tiny encoders of every architecture with random weights, as transformers and sentence-transformers save them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "the cat sat on the mat and looked at the bird",
    "how do I reset my password on the account page",
    "a long way from home, hello, how are you today?",
    "Reset THE Password: trains are late on monday",
]
LENGTH = 64

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1}),
    "mpnet": ("MPNet", {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1}),
    "camembert": ("Camembert", {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1}),
    "electra": ("Electra", {"embedding_size": 16}),
    "distilbert": ("DistilBert", {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}),
    "modernbert": ("ModernBert", {"local_attention": 16, "global_attn_every_n_layers": 2, "num_hidden_layers": 3}),
}
"""Each ``model_type``'s prefix of transformers' classes, and the parts of its config that are its own."""

_SHARED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}


def write_tokenizer(folder: Path, model_type: str, *, lowers: bool = False) -> int:
    """Write a word-piece tokenizer with the family's template for pairs; returns the size of its vocabulary."""
    paddings = ["<s>", "[PAD]"] if FAMILIES[model_type][1].get("pad_token_id") == 1 else ["[PAD]", "<s>"]
    special = [*paddings, "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    if lowers:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=special))
    typed = model_type in ("bert", "electra")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if typed else "[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        model_input_names=["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
        **names,
    )
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()


def write_checkpoint(folder: Path, model_type: str, head: str = "Model", **changes: Any) -> Path:
    """Write config, weights and tokenizer of a random model; ``head`` ends the name of its class.

    Weights are large enough that padding or a wrong mask would show in the result.
    """
    prefix, own = FAMILIES[model_type]
    vocabulary = write_tokenizer(folder, model_type)
    torch.manual_seed(7)
    values = {**_SHARED, "vocab_size": vocabulary, "initializer_range": 0.25, **own, **changes}
    config = getattr(transformers, f"{prefix}Config")(**values)
    model = getattr(transformers, f"{prefix}{head}")(config).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith("bias"):
                weights.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    return folder


def write_sentence_model(folder: Path, plain: Path, modules: list[Any]) -> Path:
    """Write a transformer's folder as sentence-transformers does, with modules behind it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Transformer

    first = Transformer(str(plain), max_seq_length=48)
    SentenceTransformer(modules=[first, *modules], device="cpu").save(str(folder))
    return folder
