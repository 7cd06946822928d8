"""The README beside an exported student: code that loads and calls it, run in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_GENERATE = """
text = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(student.generate(**text, max_new_tokens=20)[0]))"""

CAUSAL_LM = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

student, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
{_GENERATE.strip()}"""

ADAPTER = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({{base!r}})
student, tokenizer = PeftModel.from_pretrained(base, "."), AutoTokenizer.from_pretrained(".")
{_GENERATE.strip()}"""

CLASSIFIER = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

student = AutoModelForSequenceClassification.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
print(student(**tokenizer("Once upon a time", return_tensors="pt")).logits)"""

_PLAIN = """import torch
from safetensors.torch import load_model
{imports}

student = {make}
load_model(student, "model.safetensors")
student.eval()"""


def plain(kind: str, path: str, options: Mapping[str, Any], shape: Sequence[int] | None) -> str:
    """The call for a network of a recipe's ``kind`` ("torch", "timm"), by its ``path`` and ``options``. ``shape``: of
    one picture, where the rows hold pictures."""
    given = [f"{name}={value!r}" for name, value in options.items() if name != "pretrained"]
    if kind == "timm":
        imports, make = "import timm", f"timm.create_model({', '.join([repr(path), *given])})"
    else:
        module, _, name = path.partition(":")
        imports, make = f"from {module} import {name}", f"{name}({', '.join(given)})"
    code = _PLAIN.format(imports=imports, make=make)
    return code if shape is None else f"{code}\nprint(student(torch.zeros{(1, *shape)}))"


def write(folder: Path, title: str, code: str) -> None:
    """Write ``folder/README.md``."""
    (folder / "README.md").write_text(f"# {title}\n\n```python\n{code}\n```\n", encoding="utf-8")
