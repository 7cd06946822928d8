"""Doors to data: a folder of images, a ``datasets`` data set on disk, JSON lines, CSV and npz tables; labelled texts
in any of them.

Every door gives a table of rows with the column names that methods ask for (``image``, ``label``, ``prompt``, ...);
``columns`` renames: ``{"label": "fine_label"}`` reads the method's ``label`` from the file's ``fine_label``.
"""

from redistill.data.images import ImageFolder
from redistill.data.picked import Picked, pick, read_picked, write_picked
from redistill.data.rows import Renamed, from_disk, read_jsonl, read_table
from redistill.data.texts import Texts

__all__ = [
    "ImageFolder", "Picked", "Renamed", "Texts", "from_disk", "pick", "read_jsonl", "read_picked", "read_table",
    "write_picked",
]  # fmt: skip
