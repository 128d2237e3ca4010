"""What the packages ship."""

import tomllib

import pytest

from tests.conftest import ROOT

PACKAGES = [ROOT, *sorted(path.parent for path in (ROOT / "integrations").glob("*/pyproject.toml"))]


@pytest.mark.parametrize("root", PACKAGES, ids=lambda root: root.name)
def test_the_types_of_a_package_are_shipped(root):
    """Without `py.typed` a user's type checker takes nothing from it."""
    name = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    folder = {
        "faithgen": "faithgen",
        "llama-index-postprocessor-faithgen": "llama_index/postprocessor/faithgen",
        "llama-index-response-synthesizers-faithgen": "llama_index/response_synthesizers/faithgen",
    }[name]
    assert (root / folder / "py.typed").is_file()
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="pip install hatchling")
    shipped = {file.distribution_path for file in wheel.WheelBuilder(str(root)).recurse_included_files()}
    assert {f"{folder}/__init__.py", f"{folder}/py.typed"} <= shipped
    assert not any(path.startswith("tests/") for path in shipped)
    if name == "faithgen":
        assert "faithgen/packaged/SmolLM2-135M-Instruct.Q4_1/adapter_model.safetensors" in shipped
