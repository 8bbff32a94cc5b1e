"""Regular expressions, choices, grammars and free JSON: what the masks let through matches, by another judge."""

import json

import pytest
import regex
from tests.server.engine import grammar_tokenizers
from tests.server.engine.grammar_walk import Model, at_random, check_json, walk

from fathom_server.engine.grammar.vocabulary import read_token_bytes
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import InvalidRequestError

SEEDS = 6

REGEXES = (
    r"[a-z]{3}", r"\d{4}-\d{2}-\d{2}", r"(yes|no|maybe)", r"a*b+c?", r"[^\n]{0,20}", r"(?i)fathom", r"x\.y\|z",
    r"\w{1,9}@\w{1,9}\.(com|org)", r"[A-F0-9]{8}(-[A-F0-9]{4}){3}", r"(ab|cd){2,4}e", r"/[a-z]{1,9}/[0-9]{1,3}",
    r"[α-ω]{2,5}", r"(東京|大阪|京都)", r"[😀-😏]{1,3}", r"\"[^\"\\]{0,10}\"", r"\[\d(, \d){0,4}\]", r"[ \t]{1,3}end",
    r"(\+\d{1,3} )?\d{7,10}", r"line\nline", r".{5}", r"(?s:.{5})", r"[\w-]{1,8}", r" leading", r"trailing ", r" ?x",
    r"((a|b)c){3}", r"[0-9]{1,3}(\.[0-9]{1,3}){3}", r"\p{Lu}\p{Ll}{1,5}",
)  # fmt: skip

CHOICES = (
    ("yes", "no"), ("a", "ab", "abc"), ("positive", "negative", "neutral"), ("é", "e\u0301"), ("日本", "日本語"),
    ("with space", " leading", "trailing "), ("line\nbreak", "tab\t", "\u0000"), ('quote"', "back\\slash", "/", "{}"),
    ("🚀", "🚀🚀"), tuple(f"option number {index}" for index in range(500)), ("only one",), ("<|im_end|>", "<s>", "<"),
)  # fmt: skip

ARITHMETIC = """
start: sum
sum: product (("+" | "-") product)*
product: atom (("*" | "/") atom)*
atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,3}/
"""
BRACKETS = 'start: pair+\npair: "(" pair* ")" | "[" pair* "]"'
SQL = """
// a small query
start: "SELECT " columns " FROM " NAME (" WHERE " NAME " = " VALUE)?
columns: "*" | NAME ("," NAME)*
NAME: /[a-z]{1,6}/
VALUE: /[0-9]{1,4}/ | "'" /[a-z]{0,5}/ "'"
"""
IGNORING = 'start: "[" WORD ("," WORD)* "]"\nWORD: /[a-z]{1,4}/\n%ignore /[ ]{1,2}/'
COMMON = "start: INT\n%import common.INT"
GBNF = 'root ::= "move " piece square\npiece ::= [KQRBN]?\nsquare ::= [a-h] [1-8]'

GRAMMARS = {
    "arithmetic": (ARITHMETIC, r"(?P<sum>(?P<product>(?P<atom>\d{1,3}|\((?&sum)\))([*/](?&atom))*)([+-](?&product))*)"),
    "brackets": (BRACKETS, r"(?P<pair>\((?&pair)*\)|\[(?&pair)*\])+"),
    "query": (
        SQL,
        r"SELECT (\*|\w{1,6}(,\w{1,6})*) FROM \w{1,6}( WHERE \w{1,6} = (\d{1,4}|'[a-z]{0,5}'))?",
    ),
    "ignoring spaces": (IGNORING, r" *\[ *[a-z]{1,4} *(, *[a-z]{1,4} *)*\] *"),
    "common": (COMMON, r"[0-9]+"),
    "gbnf": (GBNF, r"move [KQRBN]?[a-h][1-8]"),
}


@pytest.fixture(scope="module", params=["large", "byte level", "sentencepiece", "sentencepiece without a space"])
def model(request: pytest.FixtureRequest) -> Model:
    return {
        "large": lambda: grammar_tokenizers.example("large"),
        "byte level": grammar_tokenizers.byte_level,
        "sentencepiece": lambda: grammar_tokenizers.sentencepiece(leading_space=True),
        "sentencepiece without a space": lambda: grammar_tokenizers.sentencepiece(leading_space=False),
    }[request.param]()


@pytest.mark.parametrize("pattern", REGEXES)
def test_answers_match_the_regular_expression(model: Model, pattern: str) -> None:
    """The whole answer matches, by the regex package."""
    for seed in range(SEEDS):
        text = walk(model, model.matcher("regex", pattern), at_random(model, seed))
        assert regex.fullmatch(pattern, text), text


@pytest.mark.parametrize("choices", CHOICES, ids=lambda choices: ascii(choices[0]))
def test_answers_are_one_of_the_choices(model: Model, choices: tuple[str, ...]) -> None:
    """The answer is one of the strings, whatever characters they hold; every one can be reached."""
    value = json.dumps(choices)
    assert all(walk(model, model.matcher("choice", value), at_random(model, seed)) in choices for seed in range(SEEDS))
    for choice in choices[:20]:
        matcher = model.matcher("choice", value)
        for token in _spelled(model, choice):
            matcher.advance(token)
        assert matcher.can_end


def _spelled(model: Model, text: str) -> list[int]:
    """A text in the ids of its bytes, which every one of the tokenizers has."""
    tokens = read_token_bytes(model.tokenizer.tokenizer, model.vocabulary, model.eos_token_ids).table
    of_byte = {written: token for token, written in enumerate(tokens) if len(written) == 1}
    ids = [of_byte[bytes([byte])] for byte in text.encode()]
    if model.text(ids) != text:  # the tokenizer drops a space at the beginning
        ids = [of_byte[b" "], *ids]
    assert model.text(ids) == text
    return ids


@pytest.mark.parametrize("name", GRAMMARS)
def test_answers_follow_the_grammar(model: Model, name: str) -> None:
    """The whole answer is a sentence of the grammar, by a recursive regular expression."""
    grammar, judge = GRAMMARS[name]
    for seed in range(SEEDS):
        text = walk(model, model.matcher("grammar", grammar), at_random(model, seed, free=8))
        assert regex.fullmatch(judge, text), text


def test_any_object(model: Model) -> None:
    """``json_object`` gives a JSON object, and nothing else."""
    for seed in range(SEEDS):
        text = walk(model, model.matcher("json_object"), at_random(model, seed))
        check_json(text, {"type": "object"})


def test_wordpiece_is_refused() -> None:
    """A tokenizer whose decoder puts spaces between tokens cannot be held to a text, and says so."""
    model = grammar_tokenizers.wordpiece()
    with pytest.raises(InvalidRequestError, match="SentencePiece tokenizer; this model's decodes by WordPiece"):
        model.compiler.compile(StructuredOutput("json_object"))


def test_a_tokenizer_without_bytes_is_refused() -> None:
    """A tokenizer that cannot write every character is refused, and says which byte it lacks."""
    model = grammar_tokenizers.unigram()
    with pytest.raises(InvalidRequestError, match=r"needs a token for every byte.* among them 0x00"):
        model.compiler.compile(StructuredOutput("json_object"))


def test_a_model_without_an_end_is_refused() -> None:
    """Without an end token an answer could not end where its grammar does."""
    example = grammar_tokenizers.example("large")
    model = Model.of(example.tokenizer, example.vocabulary, frozenset())
    with pytest.raises(InvalidRequestError, match="needs a model with an end token"):
        model.compiler.compile(StructuredOutput("json_object"))
