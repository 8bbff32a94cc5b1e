"""Templates: what they render, and what the sandbox keeps them from."""

import pytest

from fathom_synth.errors import TemplateError
from fathom_synth.template import RowError, Template

HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ row.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ ''['format'].__globals__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(10**9) %}x{% endfor %}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(60) }}",
    "{{ 'x' * 10**10 }}",
    "{{ 10**10**10 }}",
    "{{ ('x' * 1000000)|replace('x', 'y' * 1000000) }}",
    "{{ 'x'|center(999999999) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '%999999999d'|format(1) }}",
    "{{ ([text] * 100000)|join(text) }}",
    "{% set ns = namespace(t='x') %}{% for i in range(99) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
    "{% set ns = namespace(t='x') %}{% for i in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}",
    "{% set ns = namespace(t='x') %}{% for i in range(99) %}{% set ns.t = [ns.t, ns.t]|join %}{% endfor %}",
    "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ lipsum(n=1000000) }}",
    "{{ range(99999)|list * 1000 }}",
    "{{ text|wordwrap(1, wrapstring=text * 100) }}",
    "{{ ('\\n' * 10000)|indent(100000) }}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_a_template_neither_reaches_out_nor_goes_on_without_end(source: str) -> None:
    """Attributes that lead out, loops, recursion and growth are refused, whatever they would take."""
    with pytest.raises(TemplateError):
        Template(source, "prompts[0].template").render({"text": "abc " * 1000, "row": {"a": 1}})


def test_a_refused_template_says_where_and_why() -> None:
    """The message names the template and what was too much of it."""
    with pytest.raises(TemplateError, match=r"^prompts\[1\]\.template: takes more than 100,000 steps .*may not end"):
        Template(
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "prompts[1].template"
        ).render({})
    with pytest.raises(TemplateError, match=r"^p: reaches out of the sandbox \(access to attribute '__class__'"):
        Template("{{ ''.__class__ }}", "p").render({})
    with pytest.raises(TemplateError, match=r"^p: is no template that Jinja takes \(.*line 2\)"):
        Template("a\n{% if %}", "p")


@pytest.mark.parametrize(
    ("source", "values", "text"),
    [
        ("Sort {{ words|sort|join(', ') }}!", {"words": ["b", "a"]}, "Sort a, b!"),
        ("{% for w in words %}{{ loop.index }}. {{ w }}{{ '' if loop.last else '\n' }}{% endfor %}",
         {"words": ["x", "y"]}, "1. x\n2. y"),
        ("{{ name|default('nobody') }} {{ '%.2f' % price }} {{ 'a' ~ 1 }} {{ 2 ** 10 }}", {"price": 1.5},
         "nobody 1.50 a1 1024"),
        ("{% macro greet(n) %}Hi {{ n }}{% endmacro %}{{ greet('Ü') }} {{ rows|map(attribute='a')|sum }}",
         {"rows": [{"a": 1}, {"a": 2}]}, "Hi Ü 3"),
        ("{{ facts|tojson }}", {"facts": {"b": [1, None]}}, '{"b": [1, null]}'),
        ("{{ text|replace('a', 'b')|upper|indent(2, first=true) }}", {"text": "abc\nd"}, "  BBC\n  D"),
    ],
)  # fmt: skip
def test_what_templates_are_for_works(source: str, values: dict[str, object], text: str) -> None:
    """Filters, loops, macros and formats render as Jinja renders them."""
    assert Template(source, "p").render(values) == text


def test_a_row_that_does_not_fit_is_told_from_a_template_that_is_wrong() -> None:
    """A missing column, or one of another kind, is the row's fault; the next row renders."""
    template = Template("{{ a + 1 }}", "p")
    for row in ({}, {"a": "one"}, {"a": None}):
        with pytest.raises(RowError, match=r"^p: "):
            template.render(row)
    assert template.render({"a": 1}) == "2"
