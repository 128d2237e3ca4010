import json
import random
import sys

import pytest

from faithgen import HeadSet


@pytest.fixture(scope="session")
def tiny_heads(tmp_path_factory):
    """Random query-focused and copying head sets of the tiny model, as files."""
    generator = random.Random(0)
    folder = tmp_path_factory.mktemp("heads")
    for method in ("query_focused", "copying"):
        scores = [[generator.random() for _ in range(8)] for _ in range(4)]
        HeadSet(scores, method, "tiny", threshold=0.5, used=40).save(folder / f"{method}.json")
    return [folder / "query_focused.json", folder / "copying.json"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: `run("rank", ...)` gives (exit code, stdout, stderr)."""
    from faithgen import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["faithgen", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def model_options(tiny_folder, tiny_heads):
    return ["--model", tiny_folder, "--heads", tiny_heads[0], "--heads", tiny_heads[1], "--dtype", "float32"]


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    rows = [
        {"id": "a", "title": "Lighthouse", "text": "The lighthouse was first lit in 1868."},
        {"id": "b", "title": "Ferry", "text": "A ferry crosses the sound in twenty minutes."},
        {"id": "c", "title": "Tram", "text": "The tram line has nine stops."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
