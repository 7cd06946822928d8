from __future__ import annotations

from typing import Any

from redistill.beds import lm
from redistill.core import Method
from redistill.language import contexts
from redistill.methods.language.opsd import Opsd


def case() -> tuple[Method, Any]:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    student = lm.blank(0, **small, num_key_value_heads=2, head_dim=8)
    questions = [f"RV{a}{b}cd" for a in "abcdef" for b in "ghi"]
    solved = [contexts.asked(lm.with_demonstration(q, "<a/b/c/d>")) for q in questions]
    data = contexts.two_contexts(student.tokenizer, [contexts.asked(q) for q in questions], solved)
    return Opsd(student, max_new_tokens=5).double(), data
