"""Training-only exercises in finding a word again: look-up is not learned in an hour without them.

A look-up or a copy is right by chance or by position long before a model matches content (an induction head: Olsson et
al. 2022, "In-context Learning and Induction Heads"). Long random texts to repeat leave no other way, and give a
dozen supervised tokens where a look-up gives one. Drills are no task: nothing of them is in the held-out set.
"""

from random import Random

from fathom_examples.tasks import Sample
from fathom_examples.words import CITIES, COLOURS, NAMES, NOUNS

WORDS = [*NAMES, *NOUNS, *COLOURS, *CITIES]


def repetition(rng: Random) -> Sample:
    """Repeat 11 to 40 distinct words, more than the copying task ever has."""
    text = " ".join(rng.sample(WORDS, rng.randint(11, 40)))
    return Sample("drill", text, f"Repeat: {text}", text)


def pairs(rng: Random) -> Sample:
    """Say which word stands beside another, for each of 2 to 10 lines of two words."""
    count = rng.randint(2, 10)
    words = rng.sample(WORDS, 2 * count)
    glue = rng.choice((" ", " ", ": "))
    lines = [f"{first}{glue}{second}" for first, second in zip(words[::2], words[1::2], strict=True)]
    questions = [(f"What is beside {line.split()[0].rstrip(':')}?", line) for line in rng.sample(lines, count)]
    context = "\n".join(lines)
    return Sample("drill", context, f"{context}\n{questions[0][0]}", questions[0][1], follow_ups=tuple(questions[1:]))


DRILLS = {"repetition": repetition, "pairs": pairs}
