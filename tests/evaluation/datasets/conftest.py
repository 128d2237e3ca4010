import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Write rows as JSONL below a folder of data sets; returns the folder."""

    def write(path, rows):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The real `datasets` library, with its cache in a folder of the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return datasets
