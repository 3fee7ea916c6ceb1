"""Read YAML so that every value knows its line: a person who mistypes a key wants to be told where."""

import re
from pathlib import Path
from typing import Any

import yaml

from radscale.errors import InputError

Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a word, and only 1.0e-3 for a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), [*"-+0123456789"]
)


class LineIndex:
    """Line numbers of the keys and values of a YAML document."""

    def __init__(self, source: str, lines: dict[Location, int], folder: Path | None = None) -> None:
        self.source, self._lines = source, lines
        self.folder = folder or Path.cwd()
        """Where relative paths of the document start."""

    def describe(self, location: Location) -> str:
        """`study.yaml:12: budget.epochs` for the nearest key that stands in this file."""
        known = location
        while known and known not in self._lines:
            known = known[:-1]
        dotted = ".".join(str(part) for part in location) or "document"
        line = self._lines.get(known, 1)
        return f"{self.source}:{line}: {dotted}" if line else f"{self.source}: {dotted}"

    def __contains__(self, location: Location) -> bool:
        return location in self._lines

    @classmethod
    def of_overrides(cls, values: dict[Any, Any]) -> "LineIndex":
        """Of the command line, which has keys and no lines."""
        lines: dict[Location, int] = {}

        def visit(mapping: dict[Any, Any], location: Location) -> None:
            for key, value in mapping.items():
                lines[(*location, key)] = 0
                if isinstance(value, dict):
                    visit(value, (*location, key))

        visit(values, ())
        return cls("--set", lines)


def read_yaml(path: Path) -> tuple[dict[str, Any], LineIndex]:
    """Parse a YAML file into plain values and its line index.

    Raises:
        InputError: no such file, not YAML, a key given twice, or not a mapping at the top.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct the path") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error.__class__.__name__}); save it as UTF-8") from None
    return parse_yaml(text, path.name, path.resolve().parent)


def parse_yaml(text: str, source: str, folder: Path | None = None) -> tuple[dict[str, Any], LineIndex]:
    """Parse YAML text; `source` names it in messages, its relative paths start at `folder`. See `read_yaml`."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _not_yaml(error, source) from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{source}:1: an experiment is a mapping of keys to values; see `radscale plan --help`")
    lines: dict[Location, int] = {}
    value = _construct(root, (), lines, source)
    return value, LineIndex(source, lines, folder)


def parse_value(text: str, source: str) -> Any:
    """One value of the command line, read as in a file."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _not_yaml(error, source) from None


def _not_yaml(error: yaml.YAMLError, source: str) -> InputError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return InputError(f"{source}:{mark.line + 1 if mark else 1}: not valid YAML: {problem}")


def _construct(
    node: yaml.Node, location: Location, lines: dict[Location, int], source: str, within: tuple[yaml.Node, ...] = ()
) -> Any:
    lines.setdefault(location, node.start_mark.line + 1)
    if node in within:
        raise InputError(f"{source}:{node.start_mark.line + 1}: an anchor that holds itself; write the values out")
    within = (*within, node)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(f"{source}:{line}: a key must be a word or a number")
            key = _scalar(key_node, source)
            if key in mapping:
                first = lines[(*location, key)]
                raise InputError(f"{source}:{line}: key '{key}' is given twice (first in line {first}); remove one")
            lines[(*location, key)] = line
            mapping[key] = _construct(value_node, (*location, key), lines, source, within)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*location, index), lines, source, within) for index, item in enumerate(node.value)]
    return _scalar(node, source)


def _scalar(node: yaml.Node, source: str) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"{source}:{node.start_mark.line + 1}: not valid YAML: {problem}") from None
    finally:
        loader.dispose()
