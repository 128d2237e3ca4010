import pytest

from faithgen.models import LoadedModel
from tests import tiny

QUESTIONS = [
    ("When was the lighthouse lit?", "It was first lit in 1868.", "It was never lit, dogs travel free."),
    ("How long does the ferry take?", "Twenty minutes.", "The keeper was called Maren Oduya, tickets cost 4.50."),
    ("What does a ticket cost?", "4.50", "Nine stops"),
    ("Who was the keeper?", "Maren Oduya kept it.", "A dog"),
]
DOCUMENTS = [
    {
        "id": "a",
        "title": "Lighthouse",
        "text": "The lighthouse of Skarnholm was first lit in 1868; Maren Oduya kept it.",
    },
    {"id": "b", "title": "", "text": "A ferry crosses the sound in twenty minutes; tickets cost 4.50."},
]


@pytest.fixture
def pairs():
    """Four rows of question, documents, answer and unfaithful."""
    return [
        {"id": str(number), "question": question, "documents": DOCUMENTS, "answer": answer, "unfaithful": other}
        for number, (question, answer, other) in enumerate(QUESTIONS)
    ]


@pytest.fixture
def dataset(pairs):
    from faithgen.training.rows import as_dataset, read_rows

    return as_dataset(read_rows(pairs, needs=("answer", "unfaithful")))


@pytest.fixture
def fresh():
    """A tiny model and tokenizer that a test may change."""
    return LoadedModel(tiny.llama(), tiny.byte_level_tokenizer(), "tiny", "0")


@pytest.fixture
def options(tmp_path):
    """Settings that make a run of a few steps quick, exact and quiet."""
    return {
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
