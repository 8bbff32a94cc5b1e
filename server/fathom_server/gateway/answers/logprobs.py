"""Log-probabilities in OpenAI's two forms."""

from collections.abc import Sequence
from typing import Any

from fathom_client import TokenLogprob
from fathom_client.protocol import LOWEST_LOGPROB


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The chat's form: a list of tokens with their bytes."""
    return {
        "content": [{**_listed(token), "top_logprobs": [_listed(top) for top in token.top]} for token in tokens],
        "refusal": None,
    }


class CompletionLogprobWriter:
    """The plain completion's form, in which each token says where in the text it begins; of one answer, in order."""

    def __init__(self) -> None:
        self._offset = 0

    def write(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The next tokens; the chosen one is among the likeliest even where it is not."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.token_bytes.decode(errors="ignore"))
        return {
            "tokens": [token_name(token.token_bytes) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": offsets,
        }


def token_name(token: bytes) -> str:
    r"""A token's text; of one that is no whole characters its bytes, as ``bytes:\xe2\x80``."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _top(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    named = {token_name(top.token_bytes): _finite(top.logprob) for top in reversed(token.top)}
    named.setdefault(token_name(token.token_bytes), token.logprob)
    return dict(sorted(named.items(), key=lambda pair: -pair[1]))


def _listed(token: TokenLogprob) -> dict[str, Any]:
    text = token.token_bytes.decode(errors="replace")
    return {"token": text, "logprob": _finite(token.logprob), "bytes": list(token.token_bytes)}


def _finite(logprob: float | None) -> float:
    return LOWEST_LOGPROB if logprob is None else logprob
