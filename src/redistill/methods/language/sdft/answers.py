"""Answers in free text: read them out, compare them, let several of them vote."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_MARKED = re.compile(r"(?:####|(?:final\s+)?answer(?:\s+is)?\s*[:=]?)\s*(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def final_answer(text: str) -> str:
    """The answer that ``text`` ends with: its last ``\\boxed{}``, else what follows its last "answer is" or ``####``,
    else its last number, else its last line.
    """
    if boxed := _BOXED.findall(text):
        return boxed[-1].strip()
    if marked := _MARKED.findall(text):
        return marked[-1].strip().rstrip(".")
    if numbers := _NUMBER.findall(text):
        return numbers[-1].replace(",", "")
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def normalise(answer: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (the comparison of SQuAD, Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def mentions(text: str, answer: str) -> bool:
    """Whether ``text`` contains ``answer`` as whole words, both normalised."""
    return f" {normalise(answer)} " in f" {normalise(text)} "


def majority(answers: Sequence[str]) -> tuple[str, float]:
    """The most frequent of the ``answers`` (the earliest of equals) and its share of the votes."""
    votes = Counter(answers)
    winner = max(votes, key=lambda a: votes[a])  # max keeps the first of equals, Counter keeps the order of arrival
    return winner, votes[winner] / len(answers)
