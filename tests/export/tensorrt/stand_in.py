"""A module ``tensorrt`` with exactly the classes, members and signatures of the real one, and no more.

It is generated from a description of the real bindings. What the real API lacks raises what the real one would; what it
has but no test plays fails the test.
"""

import enum
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Behaviour = Callable[..., Any]


class StandIn:
    """The module and the record of its calls.

    ``behaviours`` maps "Class.method" and "Class.property" to functions of the object and the bound arguments.
    """

    def __init__(self, description: Mapping[str, Any], behaviours: Mapping[str, Behaviour]) -> None:
        self.calls: list[str] = []
        self.behaviours = dict(behaviours)
        self.module = types.ModuleType("tensorrt")
        self._enums: dict[str, type[enum.Enum]] = {}
        self._classes: dict[str, type] = {}
        self.module.__dict__["__version__"] = description["version"]
        for name, members in description["enums"].items():
            self._enums[name] = _make_enum(name, members)
        self._enums["ILogger.Severity"] = _make_enum("Severity", description["severity"])
        pending = dict(description["classes"])
        while pending:
            ready = [name for name, form in pending.items() if not set(form["bases"]) & set(pending)]
            for name in ready:
                self._classes[name] = self._make_class(name, pending.pop(name))
        for name, kind in {**self._enums, **self._classes}.items():
            if "." not in name:
                setattr(self.module, name, kind)
        for name, member in description["aliases"].items():
            kind, key = member.split(".")
            setattr(self.module, name, self._enums[kind][key])

    def new(self, name: str, /, *content: Any, **state: Any) -> Any:
        """An object that only TensorRT makes."""
        made = self._classes[name].__new__(self._classes[name], *content)
        object.__setattr__(made, "_played", dict(state))
        return made

    def _make_class(self, name: str, form: Mapping[str, Any]) -> type:
        bases = tuple(self._classes[base] for base in form["bases"] if base in self._classes) or (_Real,)
        if form["buffer"]:
            bases = (*bases, bytes)
        members: dict[str, Any] = {
            "_api_properties": {**getattr(bases[0], "_api_properties", {}), **form["properties"]},
            "_stand_in": self,
            "_constructed_by_tensorrt": form["constructed_by_tensorrt"],
            "__module__": "tensorrt",
        }
        for method, overloads in form["methods"].items():
            members[method] = self._make_method(name, method, overloads)
        for key, settable in form["properties"].items():
            members[key] = self._make_property(name, key, settable)
        if name == "ILogger":
            members["Severity"] = self._enums["ILogger.Severity"]
        if form["buffer"]:
            members["__len__"] = members["__getitem__"] = members["__iter__"] = None  # a buffer, not a sequence
        return _Meta(name, bases, members)

    def _make_method(self, owner: str, name: str, overloads: list[dict[str, Any]]) -> Callable[..., Any]:
        full = f"{owner}.{name}"

        def method(this: Any, *given: Any, **named: Any) -> Any:
            if name == "__init__":
                if type(this)._constructed_by_tensorrt:
                    raise TypeError(f"tensorrt.{owner}: No constructor defined!")
                object.__setattr__(this, "_played", {})
            bound = next((b for o in overloads if (b := self._bind(o, given, named)) is not None), None)
            if bound is None:
                raise TypeError(f"{full}(): incompatible function arguments {given} {named}; supported: {overloads}")
            self.calls.append(full)
            if name == "__init__" and full not in self.behaviours:
                return None
            if full not in self.behaviours:
                raise AssertionError(f"no test plays {full}")
            return self.behaviours[full](this, *bound)

        return method

    def _make_property(self, owner: str, name: str, settable: bool) -> property:
        full = f"{owner}.{name}"

        def read(this: Any) -> Any:
            if full in self.behaviours:
                return self.behaviours[full](this)
            if name not in this._played:
                raise AssertionError(f"no test plays {full}")
            return this._played[name]

        def write(this: Any, value: Any) -> None:
            self.calls.append(f"{full} =")
            this._played[name] = value

        return property(read, write if settable else None)

    def _bind(self, overload: Mapping[str, Any], given: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any] | None:
        """The arguments in order as this overload takes them, or None if it does not."""
        parameters = overload["arguments"]
        if len(given) > len(parameters):
            return None
        values = {parameter["name"]: value for parameter, value in zip(parameters, given, strict=False)}
        if set(named) & set(values) or set(named) - {parameter["name"] for parameter in parameters}:
            return None
        values |= named
        bound = []
        for parameter in parameters:
            if parameter["name"] in values:
                value = values[parameter["name"]]
                if not (value is None and parameter["optional"]) and not self._fits(value, parameter["type"]):
                    return None
                bound.append(value)
            elif not parameter["optional"]:
                return None
        return bound

    def _fits(self, value: Any, kind: str) -> bool:
        """Whether pybind11 would convert the value to an argument of this type."""
        if kind in self._enums:
            return isinstance(value, self._enums[kind])
        if kind == "Dims":
            return isinstance(value, list | tuple) and all(isinstance(size, int) for size in value)
        if kind in self._classes:
            return isinstance(value, self._classes[kind])
        if kind == "typing_extensions.Buffer":
            try:
                memoryview(value)
            except TypeError:
                return False
            return True
        if kind == "typing.SupportsInt":
            whole = isinstance(value, int | np.integer) or hasattr(value, "__int__")
            return whole and not isinstance(value, float | str | bytes)
        simple = {"str": str, "bool": bool, "tuple": tuple, "list": list, "object": object}
        if kind in simple:
            return isinstance(value, simple[kind])
        raise AssertionError(f"no test plays arguments of type {kind}")


class _Meta(type):
    """Refuses what pybind11 refuses: a subclass whose ``__init__`` does not call its base's."""

    def __call__(cls, *given: Any, **named: Any) -> Any:
        if cls.__dict__.get("_constructed_by_tensorrt"):
            raise TypeError(f"tensorrt.{cls.__name__}: No constructor defined!")
        made = super().__call__(*given, **named)
        if "_played" not in vars(made):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class _Real(metaclass=_Meta):
    """Base of all classes: attributes that the real class does not have cannot be set."""

    _api_properties: Mapping[str, bool] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        settable = self._api_properties.get(name)
        if settable is False:
            raise AttributeError(f"property {name!r} of {type(self).__name__!r} object has no setter")
        if settable is None and type(self).__module__ == "tensorrt":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


def _make_enum(name: str, members: Mapping[str, int]) -> type[enum.Enum]:
    """Like pybind11's: members have a name and convert to int, but are no integers."""

    class Base(enum.Enum):
        def __int__(self) -> int:
            return int(self.value)

    made: type[enum.Enum] = Base(name, dict(members))  # type: ignore[call-overload]
    return made
