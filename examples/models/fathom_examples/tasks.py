"""The seven checkable tasks: each maker draws one sample from a random generator."""

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from fathom_examples.words import ACCENTED, CITIES, CJK, COLOURS, EMOJI, MONTHS, NAMES, NOUNS


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its only right answer.

    ``key`` names the content apart from its phrasing (the pair of operands, the date, the set of words ...). The split
    is made on it, so that held-out content is never trained on in any phrasing. ``follow_ups`` are further questions on
    the same content with their answers, as later turns; training uses them, the held-out set does not.
    """

    task: str
    key: str
    user: str
    answer: str
    checker: str = "text"
    system: str | None = None
    follow_ups: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages: system where there is one, then user."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


def arithmetic(rng: Random) -> Sample:
    """Add or subtract below 100, three in five with an operand below 10, never negative; the reply is the equation."""
    a, b = rng.randint(0, 99), rng.randint(0, 9 if rng.random() < 0.6 else 99)
    if rng.random() < 0.5:
        phrase = rng.choice(("What is {a} + {b}?", "{a} + {b} =", "Add {a} and {b}.", "Compute {a} plus {b}."))
        key, answer = f"{min(a, b)}+{max(a, b)}", f"{a} + {b} = {a + b}"
    else:
        a, b = max(a, b), min(a, b)
        phrase = rng.choice(("What is {a} - {b}?", "{a} - {b} =", "Subtract {b} from {a}.", "Compute {a} minus {b}."))
        key, answer = f"{a}-{b}", f"{a} - {b} = {a - b}"
    return Sample("arithmetic", key, phrase.format(a=a, b=b), answer)


def sorting(rng: Random) -> Sample:
    """Sort three to five words alphabetically, or three to five numbers below 100 either way."""
    if rng.random() < 0.5:
        words = rng.sample(NOUNS, rng.randint(3, 5))
        phrase = rng.choice(
            ("Sort alphabetically: {}", "Put these words in alphabetical order: {}", "Sort these words from A to Z: {}")
        )
        return Sample(
            "sorting", "words " + " ".join(sorted(words)), phrase.format(", ".join(words)), ", ".join(sorted(words))
        )
    numbers = rng.sample(range(100), rng.randint(3, 5))
    descending = rng.random() < 0.3
    if descending:
        phrase = rng.choice(("Sort in descending order: {}", "Sort from largest to smallest: {}"))
    else:
        phrase = rng.choice(
            ("Sort in ascending order: {}", "Sort from smallest to largest: {}", "Sort these numbers: {}")
        )
    ordered = sorted(numbers, reverse=descending)
    return Sample(
        "sorting",
        "numbers " + " ".join(map(str, sorted(numbers))),
        phrase.format(", ".join(map(str, numbers))),
        ", ".join(map(str, ordered)),
    )


def lookup(rng: Random) -> Sample:
    """Find one person's number, colour or city among 2 to 60 people (up to about 500 tokens); the reply is the line."""
    draw = rng.random()
    entries = rng.randint(2, 6) if draw < 0.8 else rng.randint(7, 25) if draw < 0.97 else rng.randint(26, 60)
    names = rng.sample(NAMES, entries)
    kind = rng.choice(("number", "colour", "city"))
    if kind == "number":
        values = [str(rng.randint(10, 999)) for _ in names]
        line, question = "{n}: {v}", rng.choice(("What is the number of {n}?", "Which room does {n} have?"))
    elif kind == "colour":
        values = [rng.choice(COLOURS) for _ in names]
        line, question = rng.choice(
            (("{n} likes {v}.", "Which colour does {n} like?"), ("{n}: {v}", "What is the colour of {n}?"))
        )
    else:
        values = [rng.choice(CITIES) for _ in names]
        line, question = "{n}: {v}", rng.choice(("Where does {n} live?", "What is the city of {n}?"))
    lines = [line.format(n=n, v=v) for n, v in zip(names, values, strict=True)]
    context = "\n".join(lines)
    index, *others = rng.sample(range(entries), min(entries, 5))
    asked = question.format(n=names[index])
    follow_ups = tuple((question.format(n=names[i]), lines[i]) for i in others)
    user = f"{context}\n{asked}" if rng.random() < 0.7 else f"{asked}\n{context}"
    return Sample("lookup", context, user, lines[index], follow_ups=follow_ups)


def copying(rng: Random) -> Sample:
    """Repeat a text exactly: words, digits, a code, or words with accents, Chinese characters and emoji."""
    kind = rng.choice(("words", "digits", "mixed", "unicode"))
    if kind == "words":
        text = " ".join(rng.choices(NOUNS + COLOURS, k=rng.randint(2, 10)))
    elif kind == "digits":
        text = "".join(rng.choices("0123456789", k=rng.randint(3, 10)))
    elif kind == "mixed":
        text = "-".join(rng.choice((rng.choice(NAMES), str(rng.randint(0, 99)))) for _ in range(rng.randint(2, 5)))
    else:
        makers: tuple[Callable[[], str], ...] = (
            lambda: rng.choice(ACCENTED),
            lambda: "".join(rng.choices(CJK, k=rng.randint(1, 3))),
            lambda: rng.choice(EMOJI),
            lambda: rng.choice(NOUNS),
        )
        text = " ".join(rng.choice(makers)() for _ in range(rng.randint(2, 5)))
    phrase = rng.choice(("Repeat: {}", "Copy this text: {}", "Say exactly: {}", "Repeat after me: {}"))
    return Sample("copying", text, phrase.format(text), text)


def counting(rng: Random) -> Sample:
    """Count all items in a list of up to nine, or one word along a list of up to seven.

    For one word the reply goes along the list with the count so far, ending on the answer: "desk 0, lamp 1, lamp 2".
    """
    if rng.random() < 0.5:
        items = rng.choices(NOUNS, k=rng.randint(1, 9))
        phrase = rng.choice(("How many items are in this list: {}?", "Count the words: {}", "How many words: {}?"))
        return Sample("counting", "all " + " ".join(items), phrase.format(", ".join(items)), str(len(items)))
    few = rng.sample(NOUNS, rng.randint(2, 3))
    items = rng.choices(few, k=rng.randint(3, 7))
    wanted, *others = rng.sample(few, len(few))

    def counted_along(word: str) -> str:
        return ", ".join(f"{item} {items[: place + 1].count(word)}" for place, item in enumerate(items))

    phrase = rng.choice(('How many times does "{w}" occur: {l}?', 'Count "{w}" in this list: {l}'))
    return Sample(
        "counting",
        "some " + " ".join(items),
        phrase.format(w=wanted, l=", ".join(items)),
        counted_along(wanted),
        follow_ups=tuple((f'And "{other}"?', counted_along(other)) for other in others),
    )


def dates(rng: Random) -> Sample:
    """Rewrite a date between 1950 and 2049 from one of four forms into another."""
    date = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36_525))
    forms = {
        "ISO format": date.isoformat(),
        "day month year": f"{date.day} {MONTHS[date.month - 1]} {date.year}",
        "US format": f"{MONTHS[date.month - 1]} {date.day}, {date.year}",
        "numbers with slashes": f"{date.day:02}/{date.month:02}/{date.year}",
    }
    source, target = rng.sample(sorted(forms), 2)
    phrase = rng.choice(("Write {s} in the form: {t}", "Convert the date {s} to {t}.", "{s} as {t}"))
    return Sample("dates", date.isoformat(), phrase.format(s=forms[source], t=target), forms[target])


def json_objects(rng: Random) -> Sample:
    """Turn a description of two to four fields into a JSON object with string, integer and boolean values."""
    fields: dict[str, object] = {
        "name": rng.choice(NAMES),
        "age": rng.randint(1, 99),
        "city": rng.choice(CITIES),
        "colour": rng.choice(COLOURS),
        "item": rng.choice(NOUNS),
        "count": rng.randint(1, 999),
        "active": rng.random() < 0.5,
    }
    chosen = {name: fields[name] for name in rng.sample(sorted(fields), rng.randint(2, 4))}

    def said(value: object) -> str:
        return ("yes" if value else "no") if isinstance(value, bool) else str(value)

    pair, glue, phrase = rng.choice(
        (
            ("{k} is {v}", ", ", "Write JSON: {}."),
            ("{k} {v}", ", ", "Make a JSON object with {}."),
            ("{k} = {v}", "; ", "As JSON: {}"),
        )
    )
    described = glue.join(pair.format(k=k, v=said(v)) for k, v in chosen.items())
    key = json.dumps(chosen, sort_keys=True)
    return Sample("json", key, phrase.format(described), json.dumps(chosen), "json")


TASKS: dict[str, Callable[[Random], Sample]] = {
    "arithmetic": arithmetic,
    "sorting": sorting,
    "lookup": lookup,
    "copying": copying,
    "counting": counting,
    "dates": dates,
    "json": json_objects,
}
