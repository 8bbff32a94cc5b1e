"""Which answers of a request are given: all as they come, or the best of several once all have ended."""

from fathom_server.engine.request import Piece, Request
from fathom_server.engine.sequence import Sequence


class AnswerSelection:
    """Hands a request's pieces to its sink.

    Of ``best_of`` answers the ``n`` of the highest log-probability a token are given, numbered by rank, when all have
    ended (as vLLM did; a longer answer is not worse for being longer).
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._ranks = request.sampling.sequences > request.sampling.n
        self._held: dict[int, list[Piece]] = {}

    def give(self, sequence: Sequence, piece: Piece) -> None:
        """Take a piece; one that ``is_last`` is the request's last."""
        if not self._ranks:
            self._request.sink.on_piece(piece)
            return
        self._held.setdefault(sequence.index, []).append(piece)
        if piece.is_last:
            self._give_best()

    def _give_best(self) -> None:
        ranked = sorted(self._request.sequences, key=lambda one: (-one.mean_logprob, one.index))
        best = ranked[: self._request.sampling.n]
        for rank, sequence in enumerate(best):
            for piece in self._held[sequence.index]:
                is_last = piece.finish_reason is not None and rank == len(best) - 1
                self._request.sink.on_piece(piece.of(rank, is_last=is_last))
