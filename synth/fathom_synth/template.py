"""Jinja templates in a sandbox that bounds what they compute, so that none loops on, reaches out or eats the memory."""

import functools
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import jinja2
import jinja2.exceptions
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox

from fathom_synth.errors import TemplateError

MAX_STEPS: Final = 100_000
"""Turns of loops and calls of one rendering."""
MAX_CHARACTERS: Final = 4_000_000
"""Characters, and items of lists, that one rendering may make, on the way to its text as well as in it."""
MAX_SECONDS: Final = 5.0
_MAX_NUMBER: Final = 1 << 128
_COUNTED: Final = "fathom counted"
_CHARGED: Final = "fathom charged"
_WIDE: Final = re.compile(r"\d{5}|\*|\{[^{}]*\{")
"""A format that pads to five digits and more, or to what is given beside it."""


class RowError(TemplateError):
    """One row does not fit the template: a column is missing, or a value is of another kind. Others may fit."""


class Template:
    """A compiled template. ``where`` names it in errors."""

    def __init__(self, source: str, where: str) -> None:
        self.source = source
        self._where = where
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError) as error:
            line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise TemplateError(f"{where}: is no template that Jinja takes ({error}{line}); mend it") from error

    def render(self, values: Mapping[str, Any]) -> str:
        """The template's text.

        Raises RowError where these values do not fit, and TemplateError where the template asks for more than the
        sandbox gives: attributes that reach out, loops that do not end, texts without measure.
        """
        token = _BUDGET.set(_Budget())
        try:
            pieces = []
            for piece in self._template.generate(**values):
                _BUDGET.get().charge(len(piece))
                pieces.append(piece)
            return "".join(pieces)
        except _ExceededError as error:
            raise TemplateError(f"{self._where}: {error}") from error
        except jinja2.exceptions.SecurityError as error:
            raise TemplateError(
                f"{self._where}: reaches out of the sandbox ({error}); use the row's columns and Jinja's filters"
            ) from error
        except RecursionError as error:
            raise TemplateError(f"{self._where}: calls itself without end; mend it") from error
        except jinja2.UndefinedError as error:
            raise RowError(f"{self._where}: {error}; name a column of the row, or give a default") from error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise RowError(f"{self._where}: cannot be rendered ({error})") from error
        finally:
            _BUDGET.reset(token)


def read_template(source: str | None, file: Path | None, where: str) -> Template:
    """Compile a template from its source or its file. Raises TemplateError."""
    if file is None:
        return Template(source or "", where)
    try:
        return Template(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise TemplateError(f"{file}: cannot be read ({error.strerror}); name a file of Jinja") from error
    except UnicodeDecodeError as error:
        raise TemplateError(f"{file}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


class _ExceededError(Exception):
    """A rendering asked for more than it may have."""


class _Budget:
    """What one rendering may still do."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._characters = MAX_CHARACTERS
        self._end = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        """Count a turn of a loop, a call or an operation."""
        self._steps -= 1
        if self._steps < 0 or time.monotonic() > self._end:
            raise _ExceededError(f"takes more than {MAX_STEPS:,} steps or {MAX_SECONDS:g} s; its loops may not end")

    def charge(self, size: int) -> None:
        """Count characters or items before, or as, they are made."""
        self._characters -= size
        if self._characters < 0:
            raise _ExceededError(f"makes more than {MAX_CHARACTERS:,} characters; make less")


_BUDGET: Final[ContextVar[_Budget]] = ContextVar("_BUDGET")


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which keeps attributes safe, with its loops, calls and operators counted besides."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        """Lead every loop and every ``~`` through a filter that a template cannot name."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = _through(_COUNTED, loop.iter)
        for joined in tree.find_all(jinja2.nodes.Concat):
            joined.nodes = [_through(_CHARGED, node) for node in joined.nodes]
        return tree

    def call(self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        subject = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        _check_call(getattr(function, "__name__", ""), subject, (*args, *kwargs.values()))
        return _charged(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        budget = _BUDGET.get()
        budget.step()
        if operator == "+":
            budget.charge(_size(left) + _size(right))
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(other, int):
                    budget.charge(_size(one) * max(0, other))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "**" and not all(isinstance(x, int | float) and abs(x) < 1024 for x in (left, right)):
            raise _ExceededError("raises too large a number to a power; use smaller ones")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > _MAX_NUMBER:
            raise _ExceededError("computes with a number beyond 2^128; use smaller ones")
        return result


def _environment() -> jinja2.Environment:
    environment = _Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False,
        optimized=False,  # else constants would be computed, without any bound, while compiling
    )  # fmt: skip
    environment.filters = {name: _guarded(name, function) for name, function in environment.filters.items()}
    environment.filters |= {_COUNTED: _counted, _CHARGED: _charged}
    environment.globals.pop("lipsum")
    return environment


def _through(name: str, node: Any) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


def _counted(items: Any) -> Any:
    """What a loop goes over, a step an item; the loop still knows its length."""
    listed = items if isinstance(items, list | tuple | dict | str) else list(items)
    budget = _BUDGET.get()
    for _ in listed:
        budget.step()
    return listed


def _charged(value: Any) -> Any:
    _BUDGET.get().charge(_size(value))
    return value


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter, checked before it makes something and charged for what it made."""

    @functools.wraps(function)  # keeps the marks by which Jinja passes its context
    def guarded(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if getattr(function, "jinja_pass_arg", None) is not None else args
        if name == "join" and given:
            glue = next((each for each in (*given[1:], *kwargs.values()) if isinstance(each, str)), "")
            _check_call(name, glue, (given[0],))
        else:
            _check_call(name, given[0] if given else None, (*given[1:], *kwargs.values()))
        return _charged(function(*args, **kwargs))

    return guarded


def _check_call(name: str, subject: Any, arguments: tuple[Any, ...]) -> None:
    """Bound what a call of a function, method or filter can make before it makes it."""
    budget = _BUDGET.get()
    budget.step()
    numbers = [abs(value) for value in arguments if isinstance(value, int)]
    if any(number > MAX_CHARACTERS for number in numbers):
        raise _ExceededError(f"calls {name or 'a function'} with the number {max(numbers)}; use a smaller one")
    if isinstance(subject, str):
        budget.charge(len(subject))
        texts = [len(value) for value in arguments if isinstance(value, str)]
        width = max([*numbers, *texts], default=4)
        if name in ("format", "format_map"):
            _check_format(subject)
        elif name in ("replace", "wordwrap") and texts:
            budget.charge((len(subject) + 1) * texts[-1])
        elif name == "join" and arguments and isinstance(arguments[0], list | tuple):
            budget.charge(sum(_size(item) + len(subject) for item in arguments[0]))
        elif name == "indent":
            budget.charge((subject.count("\n") + 1) * width)


def _check_format(form: str) -> None:
    if _WIDE.search(form):
        raise _ExceededError("formats with too large a width; use up to four digits")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0
