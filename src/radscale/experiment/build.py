"""Make a settings dataclass from the plain mapping of an experiment file, as strictly as the file itself is read."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from radscale.errors import InputError

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of dataclass `cls`; nested dataclasses are built too, lists become tuples where the field is one.

    Args:
        cls: a frozen settings dataclass.
        values: what the experiment file says.
        where: the section of the file, for messages.

    Raises:
        InputError: an unknown key (with those allowed), a value of the wrong type, or one that `cls` itself refuses.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    unknown = [key for key in values if key not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"{where}.{unknown[0]}: unknown key; {hint}allowed: {', '.join(known)}")
    arguments = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except TypeError as error:
        raise InputError(f"{where}: {str(error).split('.__init__() ')[-1]}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: must be a mapping of keys to values, got {value!r}")
        return build(hint, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise InputError(f"{where}: must be one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin is tuple or hint is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: must be a list, got {value!r}")
        inner = arguments[0] if arguments else Any
        return tuple(_convert(inner, item, f"{where}.{index}") for index, item in enumerate(value))
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: must be a mapping of keys to values, got {value!r}")
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _check_scalar(hint, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except InputError as error:
            problems.append(error)
    raise problems[-1]


def _check_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise InputError(f"{where}: must be {hint.__name__}, got {value!r}")
    return value
