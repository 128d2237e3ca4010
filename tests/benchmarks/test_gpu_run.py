"""The one command for the GPU's figures gives options that its scripts have."""

import re
import shlex

import pytest

from tests.benchmarks.conftest import BENCHMARKS


def gpu_commands():
    text = (BENCHMARKS / "gpu.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    return dict(re.findall(r"^ +(\w+)\) part \w+ python benchmarks/(.*?) ;;$", text, re.MULTILINE))


def test_the_parts_of_the_gpu_run_are_those_that_it_says():
    text = (BENCHMARKS / "gpu.sh").read_text(encoding="utf-8")
    assert set(re.search(r"set -- (.*)", text)[1].split()) == set(gpu_commands())
    assert set(re.search(r"there are: (.*)\" >&2", text)[1].split()) == set(gpu_commands())


@pytest.mark.parametrize("part", gpu_commands())
def test_the_gpu_run_gives_options_that_there_are(part, module, monkeypatch):
    """Each command gets as far as loading its model."""
    name, *arguments = shlex.split(gpu_commands()[part])
    script = module(name.removesuffix(".py"))

    class Loading(Exception):
        pass

    def load(model, shape=None, dtype="auto"):
        raise Loading(shape)

    monkeypatch.setattr(script, "load", load)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    with pytest.raises(Loading, match="8b"):
        script.main()
