import functools
import importlib
import json
import sys

import pytest

from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/, loaded for this test alone as if its folder were the script's; roofs are not measured."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for path in BENCHMARKS.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    common, roofline = importlib.import_module("common"), importlib.import_module("roofline")
    monkeypatch.setattr(common, "example_documents", functools.partial(common.example_documents, count=6))
    monkeypatch.setattr(roofline, "copy_bandwidth", lambda device: 1e10)
    monkeypatch.setattr(roofline, "matrix_rate", lambda device, dtype: 1e11)
    yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def run(module, tiny_folder, monkeypatch, capsys):
    """Run a script; returns what it printed, its table rows by their first cell, and its JSON line."""

    def main(name, *arguments, shape=True):
        own = ["--shape", "tiny", "--model", str(tiny_folder)] if shape else []
        monkeypatch.setattr(sys, "argv", [name, *own, *map(str, arguments)])
        capsys.readouterr()
        module(name).main()
        out = capsys.readouterr().out
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line[:1] == "|"]
        return out, {cells[0]: cells[1:] for cells in lines}, json.loads(out.splitlines()[-1])

    return main
