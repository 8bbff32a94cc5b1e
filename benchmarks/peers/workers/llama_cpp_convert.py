"""A checkpoint as GGUF, by llama.cpp's own converter: SOURCES CHECKPOINT GGUF.

The converter knows tokenizers by a hash of what they make of a text, and refuses strangers such as ours; it is told
that ours splits text as GPT-2's does.
"""

import sys
from pathlib import Path


def main() -> None:
    """Convert."""
    sources, checkpoint, target = sys.argv[1:]
    sys.path[:0] = [sources, str(Path(sources) / "gguf-py")]
    import conversion.base
    import convert_hf_to_gguf

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    sys.argv[1:] = [checkpoint, "--outfile", target, "--outtype", "bf16"]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
