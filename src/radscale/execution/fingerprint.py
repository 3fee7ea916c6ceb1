"""Identity of a step's settings: a hash of literals, in which nothing ambiguous may take part."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

TABLES = (".csv", ".tsv", ".json", ".parquet", ".xlsx")


def canonical(value: Any) -> Any:
    """Reduce a settings value to JSON types with one spelling each.

    Raises:
        TypeError: for a value without a stable identity (a path, a callable, an object): paths and machines must not
            decide what a result is called.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            # 1.0 and 1 are the same setting, whichever way a YAML file writes it.
            return int(value) if value.is_integer() and abs(value) < 2**53 else value
        return f"float:{value}"
    if isinstance(value, Enum):
        return canonical(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: canonical(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    raise TypeError(f"cannot fingerprint a value of type {type(value).__name__}: it has no stable identity")


def fingerprint(value: Any) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of `value`."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Say in lines like `learning_rate: 0.001 -> 0.0005` what differs between two settings."""
    old, new = canonical(old), canonical(new)
    if isinstance(old, dict) and isinstance(new, dict):
        changes = []
        for key in sorted(old.keys() | new.keys()):
            name = f"{prefix}.{key}" if prefix else key
            if key not in old:
                changes.append(f"{name}: new ({_short(new[key])})")
            elif key not in new:
                changes.append(f"{name}: gone (was {_short(old[key])})")
            else:
                changes += describe_changes(old[key], new[key], name)
        return changes
    return [] if old == new else [f"{prefix}: {_short(old)} -> {_short(new)}"]


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def external_identity(path: Path) -> str:
    """Identity of a file or folder that no step made, independent of where it lies.

    A file is known by its content. A folder is known by the relative names and sizes of its files, because reading
    every image of an archive before anything starts would take hours; its tables are read, because a corrected label or
    patient often leaves the size as it was.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
    """
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    elif path.is_dir():
        for item in sorted(path.rglob("*")):
            if item.is_file():
                digest.update(f"{item.relative_to(path).as_posix()}\0{item.stat().st_size}\n".encode())
                if item.suffix.lower() in TABLES:
                    digest.update(item.read_bytes())
    else:
        raise FileNotFoundError(path)
    return digest.hexdigest()[:16]
