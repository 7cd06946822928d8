"""Doors to data: a folder of images, a ``datasets`` data set on disk, JSON lines, CSV and npz tables; labelled texts
in any of them.

Every door gives a table of rows with the column names that methods ask for (``image``, ``label``, ``prompt``, ...);
``columns`` renames: ``{"label": "fine_label"}`` reads the method's ``label`` from the file's ``fine_label``. Names are
imported when they are first used, so that a recipe is checked without torch.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "images": ("ImageFolder",),
    "picked": ("Picked", "pick", "read_picked", "write_picked"),
    "rows": ("Renamed", "from_disk", "read_jsonl", "read_table"),
    "texts": ("Texts",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(import_module(f"redistill.data.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'redistill.data' has no attribute {name!r}")
