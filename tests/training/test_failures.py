import errno

import pytest

pytest.importorskip("trl")

from safetensors import SafetensorError

from faithgen.errors import FaithgenError
from faithgen.training.failures import Started, in_one_line

FULL = OSError(errno.ENOSPC, "No space left on device")


def raised(error, tmp_path, *, begun, resume=None):
    started = Started()
    if begun:
        started.on_train_begin(None, None, None)
    with in_one_line(started, str(tmp_path), resume):
        raise error


@pytest.mark.parametrize(
    "error", [ValueError("bad\nlong"), ImportError("bad"), RuntimeError("bad"), SafetensorError("bad")]
)
def test_before_the_first_step_settings_are_at_fault_and_afterwards_the_code_is(error, tmp_path):
    with pytest.raises(FaithgenError, match=r"^training cannot start \(bad\); change the setting"):
        raised(error, tmp_path, begun=False)
    with pytest.raises(FaithgenError, match=r"^training cannot go on from 'here' \(bad\); "):
        raised(error, tmp_path, begun=False, resume="here")
    with pytest.raises(type(error)) as caught:
        raised(error, tmp_path, begun=True)
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "No space left on device"),
        (
            SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
            "File too large .os error 27.",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "could not be written whole",
        ),
    ],
)
def test_a_full_disk_is_no_bug(error, reason, tmp_path):
    with pytest.raises(FaithgenError, match=f"{reason}.*; choose another"):
        raised(error, tmp_path, begun=True)


def test_other_errors_keep_their_traceback(tmp_path):
    for begun, error in (
        (False, KeyError("x")),
        (False, FaithgenError("said")),
        (True, OSError(errno.ENOENT, "gone")),
    ):
        with pytest.raises(type(error)) as caught:
            raised(error, tmp_path, begun=begun)
        assert caught.value is error
