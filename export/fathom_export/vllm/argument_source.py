"""vLLM's engine arguments read out of its source, without importing it: it needs a torch and a CUDA of its own.

``AsyncEngineArgs`` (``vllm/engine/arg_utils.py``) is what Triton's vLLM backend makes of ``model.json``. Its fields'
annotations name aliases of ``vllm/config``, which are followed.
"""

import argparse
import ast
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from fathom_export.errors import SourceError
from fathom_export.vllm.arguments import TABLE_FILE, Argument, ArgumentTable, Kind

ARGUMENTS_FILE: Final = "vllm/engine/arg_utils.py"
CLASSES: Final = ("EngineArgs", "AsyncEngineArgs")
SAMPLING_FILE: Final = "vllm/sampling_params.py"
SAMPLING_CLASS: Final = "SamplingParams"

_MODULES: Final = (
    ARGUMENTS_FILE,
    SAMPLING_FILE,
    "vllm/config/",
    "vllm/v1/attention/backends/registry.py",
    "vllm/model_executor/layers/quantization/__init__.py",
)
_KINDS: Final[dict[str, Kind]] = {
    "str": "text",
    "int": "whole",
    "float": "number",
    "bool": "flag",
    "list": "list",
    "set": "list",
    "tuple": "list",
    "dict": "table",
    "None": "null",
}
_ANY: Final = frozenset(("Any", "object"))


def read_wheel(wheel: Path) -> ArgumentTable:
    """The arguments of the vLLM in a wheel; raises SourceError where it is none or of another form."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".py") and name.startswith(_MODULES)]
            missing = [name for name in (ARGUMENTS_FILE, SAMPLING_FILE) if name not in names]
            if missing:
                raise SourceError(f"{wheel} holds no {missing[0]}; name a wheel of vLLM")
            sources = {name: archive.read(name).decode() for name in names}
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise SourceError(f"{wheel} cannot be read as a wheel ({error}); name a wheel of vLLM") from error
    version = wheel.name.split("-")[1] if wheel.name.count("-") >= 2 else ""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    sampling = [name for name, _ in _fields(trees[SAMPLING_FILE], SAMPLING_CLASS, SAMPLING_FILE)]
    return ArgumentTable(version, dict(_arguments(trees)), tuple(sorted(sampling)))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table anew from a wheel; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fathom_export.vllm.argument_source",
        description="Write the table of vLLM's engine arguments from a wheel (pip download --no-deps vllm).",
    )
    parser.add_argument("wheel", type=Path)
    try:
        table = read_wheel(parser.parse_args(argv).wheel)
    except SourceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    TABLE_FILE.write_text(table.as_json(), encoding="utf-8")
    sys.stdout.write(f"{TABLE_FILE.name}: {len(table.arguments)} arguments of vLLM {table.version}\n")
    return 0


def _arguments(trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, Argument]]:
    meanings = _Meanings(trees.values())
    for name in CLASSES:
        for field, annotation in _fields(trees[ARGUMENTS_FILE], name, ARGUMENTS_FILE):
            kinds, choices = meanings.of(annotation)
            ordered = sorted(choices, key=lambda choice: (isinstance(choice, str), choice))
            yield field, Argument(tuple(sorted(kinds)), tuple(ordered))


def _fields(tree: ast.Module, name: str, file: str) -> Iterator[tuple[str, ast.expr]]:
    """Public fields of a class with their annotations; raises SourceError where there is no such class."""
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        raise SourceError(f"{file} has no class {name}; this vLLM is of a form that is not known here")
    for field in found.body:
        match field:
            case ast.AnnAssign(target=ast.Name(id=public), annotation=annotation) if not public.startswith("_"):
                yield public, annotation


class _Meanings:
    """What annotations mean: kinds of JSON values, and the values that literals name."""

    def __init__(self, trees: Iterable[ast.Module]) -> None:
        self._aliases: dict[str, ast.expr] = {}
        self._enums: dict[str, Kind] = {}
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                    name = node.targets[0].id
                    # of several, such as one for type checkers and another, the one that names values
                    if name not in self._aliases or ast.unparse(node.value).startswith("Literal["):
                        self._aliases[name] = node.value
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                    if isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias":
                        self._aliases.setdefault(node.target.id, node.value)
                elif isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases):
                    is_integer = any("IntEnum" in ast.unparse(base) for base in node.bases)
                    self._enums[node.name] = "whole" if is_integer else "text"

    def of(self, annotation: ast.expr, depth: int = 0) -> tuple[set[Kind], frozenset[str | int]]:
        """Kinds and named values of an annotation."""
        if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
            return self._union((annotation.left, annotation.right), depth)
        if isinstance(annotation, ast.Constant):
            if annotation.value is None:
                return {"null"}, frozenset()
            return self.of(ast.parse(str(annotation.value), mode="eval").body, depth)
        if isinstance(annotation, ast.Subscript):
            return self._subscript(annotation, depth)
        name = ast.unparse(annotation)
        if name in _KINDS:
            return {_KINDS[name]}, frozenset()
        if name in _ANY:
            return {"any"}, frozenset()
        if name in self._enums:
            return {self._enums[name]}, frozenset()
        if name == "torch.dtype":
            return {"text"}, frozenset()
        if name in self._aliases and depth < 8:
            return self.of(self._aliases[name], depth + 1)
        return {"table"}, frozenset()  # a dataclass of vLLM's, which it makes of a table

    def _union(self, parts: Sequence[ast.expr], depth: int) -> tuple[set[Kind], frozenset[str | int]]:
        found = [self.of(part, depth) for part in parts]
        kinds: set[Kind] = set().union(*(each for each, _ in found))
        return kinds, frozenset().union(*(choices for _, choices in found))

    def _subscript(self, annotation: ast.Subscript, depth: int) -> tuple[set[Kind], frozenset[str | int]]:
        outer = ast.unparse(annotation.value).rpartition(".")[2]
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if outer in ("Optional", "Union"):
            kinds, choices = self._union(inner, depth)
            return kinds | ({"null"} if outer == "Optional" else set()), choices
        if outer == "Literal":
            values = [value for each in inner for value in self._literals(each)]
            kinds = {"whole" if isinstance(value, int) else "choice" for value in values}
            return kinds, frozenset(values)
        if outer == "Annotated":
            return self.of(inner[0], depth)
        if outer == "type":
            return set(), frozenset()  # a class cannot be written in JSON
        return {_KINDS.get(outer.lower(), "table")}, frozenset()

    def _literals(self, value: ast.expr) -> Iterator[str | int]:
        """A literal's values; one may name a further alias of literals."""
        if isinstance(value, ast.Constant) and isinstance(value.value, str | int):
            yield value.value
        elif isinstance(value, ast.Name | ast.Subscript):
            yield from self.of(value, 1)[1]


if __name__ == "__main__":
    sys.exit(main())
