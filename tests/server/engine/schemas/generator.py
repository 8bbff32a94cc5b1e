"""Random JSON schemas, the same for the same seed."""

import random
from typing import Any

WORDS = (
    "id",
    "name",
    "größe",
    "tags",
    "x",
    "first name",
    "Ω",
    "line\nbreak",
    'say "hi"',
    "a/b",
    "value",
    "items",
    "type",
)
PATTERNS = (
    "^[a-z]{2,5}$",
    "^(yes|no|maybe)$",
    "^[0-9]{3}-[0-9]{2}$",
    "^[A-Z][a-z]*$",
    "^(ab?c|d+){1,3}$",
    "^é*[ßø]$",
    "[xyz]",
)
FORMATS = ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "hostname", "uri", "duration")


def schemas(count: int, seed: int) -> list[Any]:
    """``count`` schemas, each of which some finite value satisfies."""
    return [_Generator(random.Random(seed * 1_000_003 + index)).document() for index in range(count)]


class _Generator:
    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.definitions: dict[str, Any] = {}

    def document(self) -> Any:
        for index in range(self.random.randrange(3)):
            self.definitions[f"def {index}/~"] = self.scalar()
        schema = self.schema(3)
        if self.random.random() < 0.3:  # a list of itself, closed by null
            schema = {"anyOf": [schema, {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}]}
        if self.definitions:
            schema = {**schema, "$defs": self.definitions}
        return schema

    def schema(self, depth: int) -> Any:
        makers = [self.scalar, self.scalar, self.reference]
        if depth > 0:
            makers += (
                [lambda: self.object(depth)] * 3 + [lambda: self.array(depth)] * 2 + [lambda: self.combined(depth)]
            )
        made = self.random.choice(makers)()
        if self.random.random() < 0.2:
            made = {"description": "what it is", **made}
        return made

    def reference(self) -> Any:
        if not self.definitions:
            return self.scalar()
        name = self.random.choice(list(self.definitions))
        return {"$ref": "#/$defs/" + name.replace("~", "~0").replace("/", "~1").replace(" ", "%20")}

    def scalar(self) -> Any:
        return self.random.choice([self.string, self.integer, self.number, self.values, self.simple])()

    def simple(self) -> Any:
        return self.random.choice(
            [{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"type": ["integer", "boolean"]}]
        )

    def string(self) -> Any:
        kind = self.random.randrange(4)
        if kind == 0:
            return {"type": "string", "pattern": self.random.choice(PATTERNS)}
        if kind == 1:
            return {"type": "string", "format": self.random.choice(FORMATS)}
        fewest = self.random.randrange(6)
        return {"type": "string", "minLength": fewest, "maxLength": fewest + self.random.randrange(12)}

    def integer(self) -> Any:
        low = self.random.randrange(-2000, 2000)
        made: dict[str, Any] = {"type": "integer"}
        if self.random.random() < 0.7:
            made[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.random.random() < 0.7:
            made[self.random.choice(["maximum", "exclusiveMaximum"])] = low + self.random.randrange(20, 4000)
        if self.random.random() < 0.3:
            made["multipleOf"] = self.random.choice([2, 3, 5, 7])
        return made

    def number(self) -> Any:
        low = round(self.random.uniform(-50, 50), self.random.randrange(4))
        made: dict[str, Any] = {"type": "number"}
        if self.random.random() < 0.7:
            made[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.random.random() < 0.7:
            made[self.random.choice(["maximum", "exclusiveMaximum"])] = low + self.random.choice([0.5, 1, 12.75, 1000])
        return made

    def values(self) -> Any:
        pool = ["a", "ab", "two words", "é", 1, 2.5, -3, None, True, [1, "x"], {"k": [None]}, "\u0001", "\\", "🚀"]
        chosen = self.random.sample(pool, self.random.randrange(1, 6))
        return {"const": chosen[0]} if self.random.random() < 0.3 else {"enum": chosen}

    def array(self, depth: int) -> Any:
        made: dict[str, Any] = {"type": "array", "items": self.schema(depth - 1)}
        fewest = self.random.randrange(3)
        if self.random.random() < 0.5:
            made["minItems"] = fewest
        if self.random.random() < 0.7:
            made["maxItems"] = fewest + self.random.randrange(3)
        if self.random.random() < 0.25:
            made["prefixItems"] = [self.schema(depth - 1) for _ in range(self.random.randrange(1, 3))]
        return made

    def object(self, depth: int) -> Any:
        names = self.random.sample(WORDS, self.random.randrange(5))
        required = [name for name in names if self.random.random() < 0.6]
        self.random.shuffle(required)
        made: dict[str, Any] = {"type": "object", "properties": {name: self.schema(depth - 1) for name in names}}
        if required:
            made["required"] = required
        others = self.random.random()
        if others < 0.5:
            made["additionalProperties"] = False
        elif others < 0.65:
            made["additionalProperties"] = self.scalar()
        elif others < 0.75:
            made["patternProperties"] = {"^k[0-9]$": self.scalar()}
        items = list(made.items())
        self.random.shuffle(items)
        return dict(items)

    def combined(self, depth: int) -> Any:
        kind = self.random.randrange(3)
        if kind == 0:
            return {"anyOf": [self.schema(depth - 1) for _ in range(self.random.randrange(1, 4))]}
        if kind == 1:
            cases = [self.object(depth - 1) for _ in range(2)]
            for value, case in enumerate(cases):
                case["properties"]["case"] = {"const": value}
                case["required"] = ["case", *case.get("required", ())]
            return {"oneOf": cases}
        low = self.random.randrange(50)
        return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + self.random.randrange(60)}]}
