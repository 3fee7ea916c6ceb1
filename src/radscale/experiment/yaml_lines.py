"""Read YAML so that every value knows its line: a person who mistypes a key wants to be told where."""

from pathlib import Path
from typing import Any

import yaml

from radscale.errors import InputError

Location = tuple[str | int, ...]


class LineIndex:
    """Line numbers of the keys and values of a YAML document."""

    def __init__(self, source: str, lines: dict[Location, int]) -> None:
        self.source, self._lines = source, lines

    def describe(self, location: Location) -> str:
        """`study.yaml:12: budget.epochs` for the nearest key that stands in this file."""
        known = location
        while known and known not in self._lines:
            known = known[:-1]
        dotted = ".".join(str(part) for part in location) or "document"
        return f"{self.source}:{self._lines.get(known, 1)}: {dotted}"


def read_yaml(path: Path) -> tuple[dict[str, Any], LineIndex]:
    """Parse a YAML file into plain values and its line index.

    Raises:
        InputError: no such file, not YAML, a key given twice, or not a mapping at the top.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of an experiment YAML or the name of a recipe") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error.__class__.__name__}); save it as UTF-8") from None
    return parse_yaml(text, path.name)


def parse_yaml(text: str, source: str) -> tuple[dict[str, Any], LineIndex]:
    """Parse YAML text; `source` names it in messages. See `read_yaml`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{source}:{line}: not valid YAML: {error.problem}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{source}:1: an experiment is a mapping of keys to values; see `radscale plan --help`")
    lines: dict[Location, int] = {}
    value = _construct(root, (), lines, source)
    return value, LineIndex(source, lines)


def _construct(node: yaml.Node, location: Location, lines: dict[Location, int], source: str) -> Any:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(key_node)
            line = key_node.start_mark.line + 1
            if key in mapping:
                first = lines[(*location, key)]
                raise InputError(f"{source}:{line}: key '{key}' is given twice (first in line {first}); remove one")
            lines[(*location, key)] = line
            mapping[key] = _construct(value_node, (*location, key), lines, source)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*location, index), lines, source) for index, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()
