"""Text, JSON, YAML and npz files of the user's: read whole, or refused in one line that names the file and the line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from redistill.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(": ")


def existing(path: str | Path, place: str) -> Path:
    """``path`` if it is a file. Raises :class:`UserError` at ``place`` for a folder and for nothing."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{path} is a folder; give a file", place=place)
    if not file.is_file():
        raise UserError(f"no such file: {path}", place=place)
    return file


def text(path: str | Path, place: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    try:
        return existing(path, place).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError("not UTF-8 text; save it as UTF-8", place=f"{path}:{line}") from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})", place=place) from error


def parsed(given: str, place: str) -> Any:
    """The value of a JSON text that stands at ``place``."""
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        where = f", line {error.lineno}" if error.lineno > 1 else ""
        raise UserError(f"not JSON ({error.msg}{where})", place=place) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"not JSON that can be read ({first_line(error)})", place=place) from error


def json_table(path: str | Path, place: str) -> dict[str, Any]:
    """The object with named fields that a JSON file holds."""
    found = parsed(text(path, place), str(path))
    if not isinstance(found, dict):
        raise UserError(f"expected an object with named fields, got {str(found)[:40]!r}", place=str(path))
    return found


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
    try:
        return yaml.load(given, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}:{mark.line + 1}" if mark and lines else place
        said = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{'' if lines else repr(given) + ' is '}not YAML ({said})", place=where) from error
    except (ValueError, RecursionError) as error:  # a month 13, thousands of brackets
        raise UserError(f"not YAML that can be read ({first_line(error)})", place=place) from error


def arrays(path: str | Path, place: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name; nothing is unpickled."""
    import zipfile
    import zlib

    import numpy as np

    try:
        found = np.load(existing(path, place), allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise UserError(f"{path} is one array (npy); write named ones with numpy.savez", place=place)
        with found:
            return {name: found[name] for name in found.files}
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"cannot read {path} ({error.strerror})", place=place) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        odd = "pickled objects are not read" if "allow_pickle" in str(error) else first_line(error)
        raise UserError(f"{path} is no whole npz file ({odd}); write it again with numpy.savez", place=place) from error


def check_out(folder: Path, place: str) -> None:
    """Refuse, before anything is computed, a folder to write that is a file, lies in one, or may not be written."""
    if "\0" in str(folder):
        raise UserError(f"{str(folder)!r} can be no folder", place=place)
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{str(folder)[:60]!r} can be no folder ({said})", place=place) from error
    if not there.is_dir():
        raise UserError(f"{there} is a file; choose a folder", place=place)
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} may not be written; choose another folder", place=place)


def check_empty(folder: Path, place: str) -> None:
    """:func:`check_out`, and refuse a folder that holds something."""
    check_out(folder, place)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose another folder", place=place)
