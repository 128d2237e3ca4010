import os
import subprocess
import sys
from typing import get_args

import pytest

from faithgen.cli import completion


@pytest.fixture
def offered(run, monkeypatch):
    """What bash is offered at the end of a line: `offered("faithgen eval --suite ")`."""

    def complete(line):
        words = line.split(" ")
        monkeypatch.setenv("_FAITHGEN_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        return run()[1].split()

    return complete


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("faithgen do", ["doctor"]),
        ("faithgen doctor --format ", ["text", "json"]),
        ("faithgen generate --contrast ", ["auto", "control", "heads", "context", "none"]),
        ("faithgen generate --contrast-method a", ["adacad"]),
        ("faithgen rank --dtype f", ["float32", "float16"]),
        ("faithgen rank --device c", ["cpu", "cuda"]),
        ("faithgen heads detect --method ", ["copying", "query_focused"]),
        ("faithgen heads show c", ["copying"]),
        ("faithgen data unfaithful --ablation ", ["zero", "uniform"]),
        ("faithgen data unfaithful --keep un", ["unfinished"]),
        ("faithgen data unfaithful --scorer l", ["lexical"]),
        ("faithgen eval --suite ", list(completion.SUITES)),
        ("faithgen eval --dataset nq", ["nq_hard", "nq_random", "nq_swap"]),
        ("faithgen eval --suite conflict --dataset nq", ["nq_swap"]),
        ("faithgen eval --methods base,f", ["base,filter", "base,full"]),
        ("faithgen eval --methods full,f", ["full,filter"]),
        (
            "faithgen eval --suite rerank --methods bm25,",
            [f"bm25,{name}" for name in ("heads", "cafe", "icr", "bm25_corpus", "embedding", "cross_encoder")],
        ),
        ("faithgen eval --suite rerank --baseline b", ["bm25", "bm25_corpus"]),
        ("faithgen eval --choice-style ", ["completion", "chat"]),
        ("faithgen eval --lm-eval faithgen_m", ["faithgen_memotrap"]),
        ("faithgen eval --output ", []),  # the shell then offers files
    ],
)
def test_a_fixed_set_of_values_is_offered(offered, line, expected):
    assert offered(line) == expected


def test_the_values_are_those_of_the_registries():
    from faithgen.decoding.contrast import METHODS, Source
    from faithgen.evaluation import lm_eval_run, methods, prompts, rankers, scorers
    from faithgen.evaluation.datasets import DATASETS, SUITES
    from faithgen.heads.ablation import Ablation
    from faithgen.models import _DTYPES
    from faithgen.training.filters import REASONS

    assert tuple(METHODS) == completion.CONTRASTS
    assert get_args(Source) == completion.SOURCES
    assert get_args(Ablation) == completion.ABLATIONS
    assert completion.DTYPES == _DTYPES
    assert REASONS[1:] == completion.FILTERS
    assert (*scorers.SCORERS, "none") == completion.SCORERS
    assert dict(SUITES) == completion.SUITES
    in_suites = {name for names in completion.SUITES.values() for name in names}
    assert in_suites | set(completion.WITHOUT_SUITE) == set(DATASETS)
    assert tuple(methods.METHODS) == completion.METHODS
    assert tuple(rankers.rankers()) == completion.RANKERS
    assert get_args(prompts.ChoiceStyle) == completion.CHOICE_STYLES
    assert tuple(lm_eval_run.OUR_TASKS) == completion.LM_EVAL_TASKS


def test_help_names_every_contrast():
    """From the same list, so that a new one is in both."""
    from typer.main import get_command

    from faithgen import cli

    command = get_command(cli.app).commands["generate"]
    text = next(one.help for one in command.params if one.name == "contrast_method")
    assert text == f"{completion.either(*completion.CONTRASTS)}."
    assert all(name in text for name in completion.CONTRASTS)
    assert [completion.either(*"abc"[:count]) for count in (1, 2, 3)] == ["a", "a or b", "a, b or c"]


@pytest.mark.parametrize("words", ["faithgen eval --methods ba", "faithgen heads detect --method c", "faithgen doc"])
def test_completing_does_not_load_torch(words):
    check = (
        "import sys\nfrom faithgen.cli import main\nsys.argv = ['faithgen']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "bad = {'torch', 'transformers', 'numpy', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    asked = {"_FAITHGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env=os.environ | asked, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(run, shell, monkeypatch):
    import shellingham

    monkeypatch.setattr(shellingham, "detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    code, out, _ = run("--show-completion")
    assert code == 0
    assert f"complete_{shell}" in out
