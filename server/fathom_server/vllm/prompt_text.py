"""The prompt as a text: vLLM's backend takes nothing else, and makes the tokens itself."""

from collections.abc import Sequence

from fathom_server.errors import InvalidRequestError
from fathom_server.text.tokenizer import TextTokenizer


class PromptTexts:
    """Finds the text that vLLM's tokenizer, which is the checkpoint's own, turns into given tokens again.

    vLLM adds the special tokens that the tokenizer adds by itself (such as ``<s>``), so where the tokens begin or end
    with those, the text must not.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        inner = tokenizer.tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.encode("a")
        places = range(len(whole) - len(inner) + 1)
        self._before = next((n for n in places if whole[n : n + len(inner)] == inner), 0)
        self._behind = max(0, len(whole) - self._before - len(inner))

    def of(self, ids: Sequence[int]) -> str:
        """A text of these tokens; raises InvalidRequestError where no text gives them."""
        size = self._tokenizer.tokenizer.get_vocab_size()
        stranger = next((token for token in ids if not 0 <= token < size), None)
        if stranger is not None:
            raise InvalidRequestError(f"input_ids holds {stranger}; the vocabulary has the ids 0 to {size - 1}")
        wanted = list(ids)
        for begin, end in dict.fromkeys(((self._before, self._behind), (0, 0))):
            text = self._tokenizer.decode(wanted[begin : len(wanted) - end], skip_special_tokens=False)
            if self._tokenizer.encode(text) == wanted:
                return text
        raise InvalidRequestError(
            "these tokens are not what the tokenizer makes of their text, and vLLM's backend takes texts alone; send "
            "text_input"
        )
