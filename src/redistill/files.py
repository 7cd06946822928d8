"""Text, JSON, YAML and npz files of the user's: read whole, or refused in one line that names the file and the line."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from redistill.core.errors import UserError, first_line, reading

if TYPE_CHECKING:
    import numpy as np


PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")  # endings of what torch.save writes


def existing(path: str | Path, place: str) -> Path:
    """``path`` if it is a file. Raises :class:`UserError` at ``place`` for a folder and for nothing."""
    file = Path(path)
    with reading(f"cannot look for {str(path)[:60]!r}", place=place):  # a name too long, a folder that may not be read
        if file.is_dir():
            raise UserError(f"{path} is a folder; give a file", place=place)
        if not file.is_file():
            raise UserError(f"no such file: {path}", place=place)
    return file


def folder(path: str | Path, place: str) -> Path:
    """``path`` if it is a folder. Raises :class:`UserError` at ``place`` for anything else."""
    with reading(f"cannot look for {str(path)[:60]!r}", place=place):
        if not Path(path).is_dir():
            raise UserError(f"no such folder: {path}", place=place)
    return Path(path)


def check_not_pickled(path: str | Path, place: str, remedy: str) -> None:
    """Refuse weights that only unpickling opens, for it runs whatever code lies in them: a file with such an ending,
    or a folder that has nothing else."""
    with reading(f"cannot look into {str(path)[:60]!r}", place=place):
        inside = list(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]
        pickled = sorted(file.name for file in inside if file.suffix in PICKLED)
        if pickled and not any(file.suffix == ".safetensors" for file in inside):
            raise UserError(f"{pickled[0]} is pickled, and nothing is unpickled here; {remedy}", place=place)


def text(path: str | Path, place: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    with reading(f"cannot read {path}", place=place):
        raw = existing(path, place).read_bytes()
        try:
            return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise UserError("not UTF-8 text; save it as UTF-8", place=f"{path}:{line}") from error


def parsed(given: str, place: str) -> Any:
    """The value of a JSON text that stands at ``place``."""
    with reading("not JSON that can be read", place=place):  # a number of thousands of digits, thousands of brackets
        try:
            found = json.loads(given)
            if "\\u" in given:  # half a character, which UTF-8 lacks
                json.dumps(found, ensure_ascii=False).encode()
            return found
        except json.JSONDecodeError as error:
            where = f", line {error.lineno}" if error.lineno > 1 else ""
            raise UserError(f"not JSON ({error.msg}{where})", place=place) from error


def json_table(path: str | Path, place: str) -> dict[str, Any]:
    """The object with named fields that a JSON file holds."""
    found = parsed(text(path, place), str(path))
    if not isinstance(found, dict):
        raise UserError(f"expected an object with named fields, got {str(found)[:40]!r}", place=str(path))
    return found


MOST_VALUES, MOST_CHARACTERS = 100_000, 200_000  # of one YAML text


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice: the first of the two would be lost without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} stands here a second time", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def yaml_value(given: str, place: str, *, lines: bool = True) -> Any:
    """The value of a YAML text that stands at ``place``; ``lines``: name the line of a mistake too."""
    with reading("not YAML that can be read", place=place):  # a month 13, thousands of brackets
        if len(given) > MOST_CHARACTERS:
            raise UserError(f"{len(given)} characters of YAML; give at most {MOST_CHARACTERS}", place=place)
        try:
            loader = _Loader(given)
            root = loader.get_single_node()
            if root is None:
                return None
            _check_size(root, {}, place)
            return loader.construct_document(root)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{place}:{mark.line + 1}" if mark and lines else place
            said = getattr(error, "problem", None) or first_line(error)
            raise UserError(f"{'' if lines else repr(given) + ' is '}not YAML ({said})", place=where) from error


def _check_size(node: yaml.Node, sizes: dict[int, int], place: str) -> int:
    """How many values ``node`` is with all its aliases written out: a few lines of them can stand for billions."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_VALUES  # an alias within its own anchor never ends
        parts = [n for v in node.value for n in (v if isinstance(v, tuple) else (v,)) if isinstance(n, yaml.Node)]
        sizes[id(node)] = 1 + sum(_check_size(part, sizes, place) for part in parts)
    if sizes[id(node)] > MOST_VALUES:
        raise UserError(f"its aliases stand for more than {MOST_VALUES} values", place=place)
    return sizes[id(node)]


def arrays(path: str | Path, place: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name; nothing is unpickled."""
    import zipfile
    import zlib

    import numpy as np

    with reading(f"cannot read {path}", place=place):
        try:
            found = np.load(existing(path, place), allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise UserError(f"{path} is one array (npy); write named ones with numpy.savez", place=place)
            with found:
                return {name: found[name] for name in found.files}
        except (UserError, PermissionError):
            raise
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            odd = "pickled objects are not read" if "allow_pickle" in str(error) else first_line(error)
            remedy = "write it again with numpy.savez"
            raise UserError(f"{path} is no whole npz file ({odd}); {remedy}", place=place) from error


def check_out(folder: Path, place: str) -> None:
    """Refuse, before anything is computed, a folder to write that is a file, lies in one, or may not be written."""
    with reading(f"{str(folder)[:60]!r} can be no folder", place=place):
        if "\0" in str(folder):
            raise ValueError("a name with a null byte")
        there = next(p for p in (folder, *folder.absolute().parents) if p.is_symlink() or p.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file; choose a folder", place=place)
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} may not be written; choose another folder", place=place)


def check_empty(folder: Path, place: str) -> None:
    """:func:`check_out`, and refuse a folder that holds something."""
    check_out(folder, place)
    with reading(f"cannot look into {folder}", place=place):
        full = folder.exists() and any(folder.iterdir())
    if full:
        raise UserError(f"{folder} is not empty; choose another folder", place=place)
