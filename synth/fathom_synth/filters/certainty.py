"""How certain the teacher was: its tokens' log-probabilities, and whether its samples agree."""

import json
import re
from collections import Counter
from collections.abc import Sequence

from fathom_synth.candidate import Candidate
from fathom_synth.errors import JobError
from fathom_synth.filters.settings import AgreementSettings, LogprobSettings
from fathom_synth.filters.text import normalise


class LogprobFilter:
    """Drops answers of which the teacher was not sure, as a whole or in one token."""

    def __init__(self, settings: LogprobSettings) -> None:
        self._settings = settings

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``unlikely``, ``unlikely token`` or ``no log-probabilities``."""
        return [self._reason(candidate) for candidate in candidates]

    def _reason(self, candidate: Candidate) -> str | None:
        sample, limits = candidate.sample, self._settings
        if sample.mean_logprob is None or sample.min_logprob is None:
            return "no log-probabilities"
        if limits.min_mean is not None and sample.mean_logprob < limits.min_mean:
            return "unlikely"
        if limits.min_token is not None and sample.min_logprob < limits.min_token:
            return "unlikely token"
        return None


class AgreementFilter:
    """Drops answers that too few of their prompt's samples share.

    Every sample that the teacher drew has a vote, also one that an earlier filter dropped: duplicates are what agrees.
    Of answers that are shared equally often the first counts. Raises JobError for a pattern that is no regular
    expression.
    """

    def __init__(self, settings: AgreementSettings) -> None:
        self._settings = settings
        self._kept: str | None = None
        try:
            self._pattern = None if settings.pattern is None else re.compile(settings.pattern)
        except re.error as error:
            raise JobError(f"agreement: pattern is {settings.pattern!r}, no regular expression ({error})") from error

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``few agree``, ``others agree`` or ``said already``. Adds the score ``agreement``."""
        return [self._reason(candidate) for candidate in candidates]

    def _reason(self, candidate: Candidate) -> str | None:
        is_json = candidate.prompt.json_schema is not None
        said = [self._answer(sample.text, is_json) for sample in candidate.answers.samples]
        votes = Counter(said)
        candidate.scores["agreement"] = votes[said[candidate.index]] / len(said)
        if candidate.scores["agreement"] < self._settings.min_share:
            return "few agree"
        if said[candidate.index] != votes.most_common(1)[0][0]:
            return "others agree"
        if self._settings.keep == "one":
            if self._kept == candidate.prompt.key:
                return "said already"
            self._kept = candidate.prompt.key
        return None

    def _answer(self, text: str, is_json: bool) -> str:
        """What is compared of an answer."""
        if self._pattern is not None and (match := self._pattern.search(text)) is not None:
            text = match[1] if self._pattern.groups and match[1] is not None else match[0]
        elif is_json:
            try:
                return json.dumps(json.loads(text), sort_keys=True)
            except (ValueError, RecursionError):
                return text
        return normalise(text)
