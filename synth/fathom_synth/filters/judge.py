"""A judge model's score: an LLM's verdict weighed by its probabilities, or a classifier's probability of a label."""

import asyncio
import math
from collections.abc import Mapping, Sequence

from fathom_client import Classification, Generation, TokenLogprob
from fathom_synth.asking import Asker, RefusedError
from fathom_synth.candidate import Candidate
from fathom_synth.errors import JobError
from fathom_synth.filters.settings import JudgeSettings
from fathom_synth.journal import Journal
from fathom_synth.prompts import digest
from fathom_synth.template import Template

TOP_LOGPROBS = 20


class JudgeFilter:
    """Drops answers whose score is too low. Scores are kept in a journal, so that none is asked for twice."""

    def __init__(self, settings: JudgeSettings, asker: Asker, journal: Journal) -> None:
        self._settings = settings
        self._asker = asker
        self._journal = journal
        self._template = judge_template(settings)

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``score too low`` or ``not judged``. Adds the score under the judge's name."""
        return list(await asyncio.gather(*map(self._reason, candidates)))

    async def _reason(self, candidate: Candidate) -> str | None:
        try:
            score = await self._score(self._text(candidate))
        except RefusedError:
            return "not judged"
        candidate.scores[self._settings.name] = score
        return "score too low" if score < self._settings.min_score else None

    def _text(self, candidate: Candidate) -> str:
        turns = candidate.prompt.messages
        values = {
            "prompt": candidate.prompt.user,
            "system": turns[0]["content"] if turns[0]["role"] == "system" else "",
            "answer": candidate.sample.text,
            "seed": candidate.prompt.columns,
        }
        return self._template.render(values)

    async def _score(self, text: str) -> float:
        settings = self._settings
        key = digest([settings.model, settings.verdicts, settings.label, text])
        kept = self._journal.get(key)
        if kept is not None:
            return float(kept["score"])
        score = await (self._verdict(text) if settings.verdicts is not None else self._label(text))
        if key not in self._journal:  # the same text may have been judged twice at once
            self._journal.add(key, {"score": score})
        return score

    async def _verdict(self, text: str) -> float:
        verdicts = self._settings.verdicts or {}
        answer: Generation = await self._asker.ask(
            lambda: self._asker.client.chat(
                self._settings.model,
                [{"role": "user", "content": text}],
                choice=list(verdicts),
                max_tokens=self._settings.max_verdict_tokens,
                temperature=0.0,
                logprobs=TOP_LOGPROBS,
            ),
            lambda answer: answer.num_input_tokens + answer.num_output_tokens,
        )
        return weigh(verdicts, answer.text, answer.logprobs or ())

    async def _label(self, text: str) -> float:
        found: Classification = await self._asker.ask(
            lambda: self._asker.client.classify(self._settings.model, [text]),
            lambda found: sum(found.num_input_tokens),
        )
        if self._settings.label not in found.labels:
            raise JobError(
                f"judge {self._settings.name}: label is {self._settings.label!r}, and {self._settings.model} has "
                f"{', '.join(found.labels)}"
            )
        return float(found.scores[0, found.labels.index(self._settings.label)])


def judge_template(settings: JudgeSettings) -> Template:
    """What the judge reads. Raises TemplateError where it is no template."""
    return Template(settings.template, f"judge {settings.name}: template")


def weigh(verdicts: Mapping[str, float], chosen: str, logprobs: Sequence[TokenLogprob]) -> float:
    """The verdicts' mean worth by the judge's probabilities of how each begins (G-Eval; Liu et al. 2023).

    Where two verdicts begin with the same token, or the server tells no tokens, the chosen verdict's worth. Raises
    RefusedError where the judge chose none of them.
    """
    begins: dict[str, float] = {}
    for token in logprobs[0].top if logprobs else ():
        text = token.token_bytes.decode("utf-8", errors="ignore").strip()
        fitting = [verdict for verdict in verdicts if text and verdict.startswith(text)]
        if len(fitting) == 1 and token.logprob is not None:
            begins[fitting[0]] = begins.get(fitting[0], 0.0) + math.exp(token.logprob)
    if len(begins) == len(verdicts):
        return sum(verdicts[verdict] * share for verdict, share in begins.items()) / sum(begins.values())
    if chosen.strip() not in verdicts:
        raise RefusedError(f"the judge answered {chosen!r}, none of {', '.join(verdicts)}")
    return verdicts[chosen.strip()]
