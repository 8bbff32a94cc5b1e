"""An answer on its way to becoming a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from fathom_client import Generation
from fathom_synth.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer: its text, how it ended, its tokens, and their log-probabilities' mean and minimum."""

    text: str
    finish_reason: str
    tokens: int
    mean_logprob: float | None
    min_logprob: float | None


@dataclass(frozen=True, slots=True)
class Answers:
    """All answers to one prompt, as the journal keeps them."""

    samples: tuple[Sample, ...]
    num_input_tokens: int

    @classmethod
    def of(cls, generation: Generation) -> Self:
        """What a server answered."""
        samples = []
        for choice in generation.choices:
            logprobs = [each.logprob for each in choice.logprobs or () if each.logprob is not None]
            mean = sum(logprobs) / len(logprobs) if logprobs else None
            samples.append(
                Sample(choice.text, choice.finish_reason, len(choice.token_ids), mean, min(logprobs, default=None))
            )
        return cls(tuple(samples), generation.num_input_tokens)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave."""
        samples = tuple(Sample(*values) for values in record["samples"])
        return cls(samples, record["num_input_tokens"])

    def to_json(self) -> dict[str, Any]:
        """The answers as JSON holds them; a sample is a list in its fields' order."""
        samples = [
            [each.text, each.finish_reason, each.tokens, each.mean_logprob, each.min_logprob] for each in self.samples
        ]
        return {"num_input_tokens": self.num_input_tokens, "samples": samples}

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of all answers."""
        return self.num_input_tokens + sum(sample.tokens for sample in self.samples)


@dataclass(slots=True)
class Candidate:
    """One answer with its prompt, all its prompt's answers, and the scores that filters give it."""

    prompt: Prompt
    index: int
    answers: Answers
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A name that is the same in every run: the prompt's key and the sample's number."""
        return f"{self.prompt.key}-{self.index}"

    @property
    def sample(self) -> Sample:
        """The answer itself."""
        return self.answers.samples[self.index]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation in chat form, the answer as its last turn."""
        return [*self.prompt.messages, {"role": "assistant", "content": self.sample.text}]

    def part(self, over: str) -> str:
        """The text that is compared: ``prompt``, ``answer``, or the ``conversation`` of both."""
        if over == "prompt":
            return self.prompt.user
        return self.sample.text if over == "answer" else f"{self.prompt.user}\n{self.sample.text}"


def candidates_of(prompt: Prompt, answers: Answers) -> list[Candidate]:
    """One candidate a sample, scored with the teacher's own certainty."""
    made = [Candidate(prompt, index, answers) for index in range(len(answers.samples))]
    for candidate in made:
        sample = candidate.sample
        if sample.mean_logprob is not None and sample.min_logprob is not None:
            candidate.scores |= {"mean_logprob": sample.mean_logprob, "min_logprob": sample.min_logprob}
    return made
