"""The encoders that a cascade may ask: one that embeds prompts, one that scores answers."""

import numpy as np
import numpy.typing as npt

from fathom_client import AsyncClient, Tls


class Helpers:
    """Encoders of the cascade's own server; for the event loop that runs when it is made."""

    def __init__(self, url: str, encoder: str, verifier: str, tls: Tls | None = None) -> None:
        self._client = AsyncClient(url, tls=tls)
        self._encoder = encoder
        self._verifier = verifier

    async def embed(self, prompt: str, timeout_s: float) -> npt.NDArray[np.float32]:
        """A prompt's embedding, float32 [dimension]; what is too long is cut. Raises FathomError."""
        answer = await self._client.embed(self._encoder, prompt or " ", truncate=True, timeout_s=timeout_s)
        vector: npt.NDArray[np.float32] = answer.vectors[0]
        return vector

    async def score(self, prompt: str, text: str, timeout_s: float) -> float:
        """The verifier's score of an answer, in its own scale. Raises FathomError."""
        answer = await self._client.rerank(
            self._verifier, prompt or " ", [text or " "], truncate=True, timeout_s=timeout_s
        )
        return float(answer.scores[0])

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()
