"""Chat templates that mean no good: they end, in bounded memory, as a refusal."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from fathom_server.text.tokenizer import MAX_CONFIG_BYTES, TextError, TextTokenizer

MESSAGES = [{"role": "user", "content": "hello"}]


def tokenizer_of(template: str) -> TextTokenizer:
    """A tokenizer of one word with a chat template."""
    return TextTokenizer(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), {}, template)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% for a in [[1, 2]] recursive %}{{ loop([[1, 2], [3, 4]]) }}{{ loop([[1, 2]]) }}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ [0] * 9999999999 }}",
        "{{ 'a'.center(9999999999) }}",
        "{{ 'a' | center(9999999999) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 9999999999) }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set s = 'a' * 999999 %}{{ s.replace('a', s) }}",
        "{% set s = 'a' * 999999 %}{{ s | replace('a', s) }}",
        "{% set s = 'a' * 999999 %}{{ s.join(range(99999) | list) }}",
        "{% set s = 'a' * 999999 %}{{ range(99999) | list | join(s) }}",
        "{% for i in range(90000) %}{% for m in range(900) %}{{ 'abcdefgh' }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(n=7) %}{% for i in range(90) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.append(1) }}",
        "{{ 1 // 0 }}",
        "{{ messages[5].role }}",
        "{{ raise_exception('no system messages') }}",
    ],
)
def test_a_template_that_means_no_good_is_refused(template: str) -> None:
    """Loops without end, results without bound and a way out of the sandbox are all a refusal, in little memory."""
    tokenizer = tokenizer_of(template)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TextError, match="chat template"):
        tokenizer.render(MESSAGES)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 512 * 1024


def test_a_good_template_is_rendered_as_before() -> None:
    """Loops with their variables, joins, filters, macros and namespaces give what plain Jinja gives."""
    template = (
        "{% macro turn(m) %}<|{{ m.role | upper }}|>{{ m['content'] | trim }}{% endmacro %}"
        "{% set ns = namespace(first=true) %}"
        "{% for m in messages %}{% if not loop.first %} / {% endif %}{{ turn(m) ~ '#' ~ loop.index }}"
        "{% if loop.last %}|{{ loop.length }}{% endif %}{% set ns.first = false %}{% endfor %}"
        "{% for key, value in {'a': 1}.items() %}{{ key }}={{ value }}{% endfor %}"
        "{{ '-' * 3 }}{{ 2 + 3 * 4 % 5 }}{{ ['x', 'y'] | join(',') }}{{ {'k': [1]} | tojson }}{{ ns.first }}"
        "{{ '%s!' % 'a' }}{{ messages | map(attribute='role') | list | length }}"
    )
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}]
    assert tokenizer_of(template).render(messages) == ('<|USER|>hi#1 / <|ASSISTANT|>yo#2|2a=1---4x,y{"k": [1]}Falsea!2')


def test_a_long_conversation_is_within_the_bounds() -> None:
    """Some thousand messages of some thousand characters are rendered."""
    messages = [{"role": "user", "content": "word " * 500}] * 2000
    text = tokenizer_of("{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}").render(messages)
    assert len(text) > 5_000_000


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ ", "{% include 'x' %}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"]
)
def test_a_template_that_is_no_jinja_is_refused(template: str) -> None:
    """Syntax errors and nesting beyond Python's own are told when the tokenizer is read, or at the first use."""
    with pytest.raises(TextError, match="chat template"):
        tokenizer_of(template).render(MESSAGES)


def write_tokenizer(folder: Path, config: str) -> None:
    """A tokenizer's two files."""
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(config)


@pytest.mark.parametrize(
    "config",
    [
        "[" * 200_000,
        '{"a": ' * 100_000,
        "[]",
        "3",
        '{"bos_token": {"x": 1}}',
        '{"chat_template": [{"name": 1}]}',
        "\x00",
    ],
)
def test_a_tokenizer_config_that_is_none_is_refused(tmp_path: Path, config: str) -> None:
    """Deep nesting, another type and missing parts are one kind of error, with the file's name."""
    write_tokenizer(tmp_path, config)
    with pytest.raises(TextError, match=r"tokenizer_config\.json"):
        TextTokenizer.load(tmp_path)


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    """A tokenizer_config.json beyond all that exist is refused by its size alone."""
    write_tokenizer(tmp_path, "{}")
    with (tmp_path / "tokenizer_config.json").open("wb") as file:
        file.truncate(MAX_CONFIG_BYTES + 1)
    with pytest.raises(TextError, match=rf"has {MAX_CONFIG_BYTES + 1} bytes; at most"):
        TextTokenizer.load(tmp_path)


def test_an_export_with_a_template_bomb_in_its_config_says_so(tiny_llm: Path, tmp_path: Path) -> None:
    """The command ends with status 2, one line, and no model."""
    import shutil

    source = Path(shutil.copytree(tiny_llm, tmp_path / "source"))
    (source / "tokenizer_config.json").write_text('{"x": ' * 100_000)
    flags = ["--name", "chat", "--task", "generate", "--repository", str(tmp_path / "repository")]
    result = subprocess.run(
        [sys.executable, "-m", "fathom_export.cli", str(source), *flags],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "tokenizer_config.json" in result.stderr.splitlines()[-1]
    assert not list((tmp_path / "repository").iterdir())
