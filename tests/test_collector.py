"""Python's garbage collector rests while torch is imported and weights are loaded, and is left as it was found."""

import gc
import subprocess
import sys
import weakref

import pytest

from faithgen.hf import collector_at_rest
from faithgen.models import load_model


@pytest.fixture(autouse=True)
def as_it_was():
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


def test_it_rests_and_goes_on():
    with collector_at_rest():
        assert not gc.isenabled()
        with collector_at_rest():
            pass
        assert not gc.isenabled(), "the inner one leaves it to the outer one"
    assert gc.isenabled()
    with pytest.raises(KeyError), collector_at_rest():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    with collector_at_rest():
        pass
    assert not gc.isenabled(), "whoever turned it off wants it off"


def test_what_came_to_be_is_old_and_can_still_be_collected():
    class Knot:
        pass

    gc.collect()
    with collector_at_rest():
        knot = Knot()
        knot.own, seen = knot, weakref.ref(knot)
        del knot
    assert gc.get_freeze_count() == 0
    gc.collect(0)
    assert seen() is not None, "not among the young"
    gc.collect()
    assert seen() is None


def test_what_a_user_froze_stays_frozen():
    gc.freeze()
    with collector_at_rest():
        pass
    assert gc.get_freeze_count() > 0  # thawed, there are none


def test_loading_rests(tiny_folder, monkeypatch):
    seen = []
    monkeypatch.setattr(gc, "disable", lambda original=gc.disable: seen.append("off") or original())
    load_model(tiny_folder)
    assert seen == ["off"]
    assert gc.isenabled()


def test_imports_leave_it_on():
    code = "import gc; from faithgen import FaithfulGenerator; print(gc.isenabled(), gc.get_freeze_count())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "0"]


def test_a_command_ends_without_another_walk():
    """What is frozen is not looked at when Python ends."""
    code = (
        "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
        "sys.argv = ['faithgen', '--version']; from faithgen.cli import main; main()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "True"
