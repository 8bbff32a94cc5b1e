"""Describe the real TensorRT bindings as JSON: every class, enum, property and signature. Run in a process of its own.

Usage: introspect_bindings.py FOLDER, which holds the unpacked bindings and libraries to link them to.
"""

import ctypes
import inspect
import json
import re
import sys
from typing import Any

CONSTRUCTED_BY_TENSORRT = "Initialize self.  See help(type(self)) for accurate signature."
BUFFER_SLOT_OFFSET = 160  # PyTypeObject.tp_as_buffer in CPython 3.11 to 3.13 on 64 bits


def signatures(name: str, function: Any) -> list[dict[str, Any]]:
    """Every overload: its arguments after self, in order, each with name, type and whether it may be left out."""
    doc = inspect.getdoc(function) or ""
    found = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.*)$", doc, re.MULTILINE)
    return [{"arguments": list(arguments(inside)), "returns": result.strip()} for inside, result in found]


def arguments(text: str) -> Any:
    """Split at the commas between brackets, drop self, read ``name: type = default``."""
    parts, depth, begin = [], 0, 0
    for place, letter in enumerate(text + ","):
        if letter in "([{<":
            depth += 1
        elif letter in ")]}>":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[begin:place].strip())
            begin = place + 1
    for part in parts:
        if part and not part.startswith("self:"):
            name, _, rest = part.partition(":")
            kind, equals, _ = rest.partition(" = ")
            yield {"name": name.strip(), "type": clean(kind), "optional": bool(equals)}


def clean(kind: str) -> str:
    """A type without the modules that it is in."""
    return re.sub(r"(tensorrt_bindings\.)?tensorrt\.|nvinfer1::|nvonnxparser::", "", kind).strip()


def has_buffer(kind: type) -> bool:
    """Whether instances offer the buffer protocol."""
    slot = ctypes.cast(id(kind) + BUFFER_SLOT_OFFSET, ctypes.POINTER(ctypes.c_void_p))[0]
    return slot is not None and bool(ctypes.cast(slot, ctypes.POINTER(ctypes.c_void_p))[0])


def describe_class(kind: type) -> dict[str, Any]:
    """Methods, properties, what can be constructed or subclassed."""
    methods, properties = {}, {}
    for name, member in vars(kind).items():
        if isinstance(member, property):
            properties[name] = member.fset is not None
        elif callable(member) and not inspect.isclass(member) and (not name.startswith("_") or name == "__init__"):
            methods[name] = signatures(name, getattr(kind, name))
    return {
        "bases": [base.__name__ for base in kind.__bases__ if base.__name__ != "pybind11_object"],
        "methods": methods,
        "properties": properties,
        "constructed_by_tensorrt": (kind.__init__.__doc__ or "").startswith(CONSTRUCTED_BY_TENSORRT),
        "buffer": has_buffer(kind),
    }


def main() -> None:
    """Print the description."""
    sys.path.insert(0, sys.argv[1])
    import tensorrt_bindings as bindings

    classes, enums = {}, {}
    for name, member in vars(bindings).items():
        if inspect.isclass(member) and hasattr(member, "__members__"):
            enums[name] = {key: int(value) for key, value in member.__members__.items()}
        elif inspect.isclass(member) and member.__module__.startswith("tensorrt"):
            classes[name] = describe_class(member)
    severity = {key: int(value) for key, value in bindings.ILogger.Severity.__members__.items()}
    aliases = {n: type(v).__name__ + "." + v.name for n, v in vars(bindings).items() if type(v).__name__ in enums}
    description = {"version": bindings.__version__, "classes": classes, "enums": enums, "severity": severity}
    print(json.dumps(description | {"aliases": aliases}))


if __name__ == "__main__":
    main()
