"""How long the code is and how it is written, in figures of syntax trees and tokens, for this tree or any folder.

python scripts/style_figures.py [FOLDER ...]      # src/redistill if left out; several folders stand side by side
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "redistill"
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
          tokenize.ENCODING}  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(tree: ast.AST) -> list[ast.stmt]:
    """The docstrings of a tree, as the statements that they are."""
    owners = (n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, *Function.__args__)))
    return [owner.body[0] for owner in owners if ast.get_docstring(owner, clean=False) is not None]


def rows_of_tokens(source: str) -> list[int]:
    """The line of every token that is code: no layout, no comment, no docstring."""
    spans = [(d.lineno, d.end_lineno) for d in docstrings(ast.parse(source))]
    rows = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        written = token.type == tokenize.STRING and any(a <= token.start[0] <= b for a, b in spans)
        if token.type not in LAYOUT and not written:
            rows.append(token.start[0])
    return rows


def functions(source: str) -> list[tuple[str, int, int]]:
    """Name, lines (docstring left out) and tokens of every function of a source text."""
    found, tree = [], ast.parse(source)
    tokens, texts = Counter(rows_of_tokens(source)), {id(d): d for d in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, Function):
            told = texts.get(id(node.body[0]))
            lines = node.end_lineno - node.lineno + 1 - (told.end_lineno - told.lineno + 1 if told else 0)
            found.append((node.name, lines, sum(tokens[row] for row in range(node.lineno, node.end_lineno + 1))))
    return found


def comments(source: str) -> int:
    """Lines that hold nothing but a comment."""
    return sum(line.lstrip().startswith("#") for line in source.splitlines())


def code(source: str) -> set[str]:
    """Stripped lines longer than eight characters, imports left out: what siblings are compared by."""
    lines = (line.strip() for line in source.splitlines())
    return {line for line in lines if len(line) > 8 and not line.startswith(("from ", "import "))}


def overlap(a: str, b: str) -> float:
    """The share of the smaller source's lines that also stand in the other."""
    one, other = code(a), code(b)
    return len(one & other) / max(1, min(len(one), len(other)))


def siblings(root: Path) -> Iterator[float]:
    """The overlap of every pair of files in ``methods``."""
    sources = [source for source in (p.read_text() for p in (root / "methods").rglob("*.py")) if len(code(source)) > 8]
    yield from (overlap(a, b) for a, b in combinations(sources, 2))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def figures(root: Path) -> dict[str, str]:
    """The table of one folder, row by row."""
    sources = [file.read_text() for file in sorted(root.rglob("*.py"))]
    found = [f for source in sources for f in functions(source)]
    lines, tokens = [f[1] for f in found], [f[2] for f in found]
    total, all_tokens = sum(len(s.splitlines()) for s in sources), sum(len(rows_of_tokens(s)) for s in sources)
    code_lines = sum(len(set(rows_of_tokens(s))) for s in sources)
    shared = list(siblings(root))
    own_line = sum(map(comments, sources))
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    described = [bool(ast.get_docstring(n)) for n in nodes if isinstance(n, (ast.ClassDef, *Function.__args__))]
    return {
        "files": f"{len(sources)}",
        "lines": f"{total:,}",
        "function lines, median / p90 / max": f"{statistics.median(lines):g} / {quantile(lines, 0.9)} / {max(lines)}",
        "function tokens, median / p90": f"{statistics.median(tokens):g} / {quantile(tokens, 0.9)}",
        "tokens a line": f"{all_tokens / code_lines:.1f}",
        "own-line comments, %": f"{100 * own_line / total:.1f}",
        "functions and classes with a docstring, %": f"{100 * statistics.mean(described):.0f}",
        "overlap of siblings, mean (max), %": _percent(shared),
        **{f"lines in {name}": f"{count:,}" for name, count in sorted(folders(root).items())},
    }


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * statistics.mean(shares):.0f} ({100 * max(shares):.0f})" if shares else ""


def folders(root: Path) -> Counter[str]:
    """Lines by folder; files at the top count as ``.``."""
    found: Counter[str] = Counter()
    for file in root.rglob("*.py"):
        inside = file.relative_to(root).parts
        found[inside[0] if len(inside) > 1 else "."] += len(file.read_text().splitlines())
    return found


def main(roots: Sequence[Path]) -> None:
    """Print the tables as Markdown, a column for each folder."""
    tables = [figures(root) for root in roots]
    print("| | " + " | ".join(str(root) for root in roots) + " |")
    print("|---|" + "---|" * len(roots))
    for name in dict.fromkeys(name for table in tables for name in table):
        print(f"| {name} | " + " | ".join(table.get(name, "") for table in tables) + " |")


if __name__ == "__main__":
    main([Path(given) for given in sys.argv[1:]] or [ROOT])
