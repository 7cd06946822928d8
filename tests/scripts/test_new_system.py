"""The files of a new system, laid out into a copy: they parse, pass ruff and are found by slug."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from redistill.catalog import entries

ROOT = Path(__file__).parents[2]
PLANNED = entries(status=["planned"])[0]


@pytest.fixture(scope="module")
def script():
    """The module scripts/new_system.py."""
    spec = importlib.util.spec_from_file_location("new_system", ROOT / "scripts" / "new_system.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _no_text(folder: str, names: list[str]) -> list[str]:
    return [n for n in names if Path(folder, n).is_file() and Path(n).suffix not in (".py", ".toml")]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The repository's Python and its catalogue."""
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=_no_text)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def ruff(folder: Path, written: list[str], *arguments: str) -> None:
    """Fails with what ruff says of the Python files among ``written``."""
    command = [sys.executable, "-m", "ruff", *arguments, *(path for path in written if path.endswith(".py"))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_is_laid_out_parses_and_passes_ruff(script, copy):
    written = script.lay_out(copy, "brand_new", "score")
    assert {Path(path).name for path in written} == {
        "brand_new.py", "test_brand_new.py", "brand_new.md", "brand_new.yaml", "score.toml",
    }  # fmt: skip
    assert len(written) == 7
    for path in (copy / name for name in written):
        assert "TODO" in path.read_text() or path.parent.name == "cases", path
        if path.suffix == ".py":
            ast.parse(path.read_text())
    assert yaml.safe_load((copy / "src/redistill/recipes/brand_new.yaml").read_text())["method"] == "brand_new"
    assert "class BrandNew(Method)" in (copy / "src/redistill/methods/score/brand_new.py").read_text()
    ruff(copy, written, "check")
    ruff(copy, written, "format", "--check", "--diff")


def test_a_new_entry_has_the_fields_of_every_other_and_a_planned_one_is_left_as_it_is(script, copy):
    board = copy / "src/redistill/catalog/score.toml"
    described = copy / f"src/redistill/catalog/{PLANNED.group}.toml"
    before = described.read_text()
    script.lay_out(copy, PLANNED.slug, None)
    assert described.read_text() == before
    assert (copy / f"src/redistill/methods/{PLANNED.group}/{PLANNED.slug}.py").is_file()
    script.lay_out(copy, "brand_new", "score")
    tables = tomllib.loads(board.read_text())
    assert set(tables["brand_new"]) == set(tables["dmd2"]) - {"extra", "class"}


@pytest.mark.parametrize(
    ("slug", "group", "said"),
    [
        ("BrandNew", "score", "no slug"),
        ("brand_new", None, "add --group"),
        ("brand_new", "scores", "not scores"),
        (PLANNED.slug, "scores", f"is of the group {PLANNED.group}"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_and_nothing_is_written(script, copy, slug, group, said):
    before = set(copy.rglob("*"))
    with pytest.raises(SystemExit, match=said):
        script.lay_out(copy, slug, group)
    assert set(copy.rglob("*")) == before


def test_nothing_is_written_over(script, copy):
    script.lay_out(copy, "brand_new", "score")
    with pytest.raises(SystemExit, match="is there already"):
        script.lay_out(copy, "brand_new", "score")


def test_the_script_needs_no_redistill(script, copy):
    code = "import runpy, sys; sys.modules['redistill'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    file = str(ROOT / "scripts" / "new_system.py")
    done = subprocess.run([sys.executable, "-c", code, file, "brand_new", "--group", "score", "--root", str(copy)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Fill in every TODO" in done.stdout


def test_no_blank_is_left_in_the_house():
    files = [p for p in (ROOT / "src/redistill").rglob("*") if p.suffix in (".py", ".md", ".toml", ".yaml")]
    assert not [p for p in files if "TODO" in p.read_text()]
