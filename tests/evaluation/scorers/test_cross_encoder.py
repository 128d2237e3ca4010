import json

import pytest
import torch

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers import load_scorer
from faithgen.evaluation.scorers.cross_encoder import FORMAT, PROVENANCE, CrossEncoderScorer
from tests.evaluation.scorers.conftest import CLAIMS, pair_tokenizer

ABOUT = {"format": FORMAT, "name": "tiny", "trained_on": ["qags", "faithbench"], "max_length": 96}


@pytest.fixture
def folder(saved, support_model):
    folder = saved(support_model, pair_tokenizer(), "support")
    (folder / PROVENANCE).write_text(json.dumps(ABOUT))
    return folder


def test_a_trained_folder_is_read_by_the_sigmoid_with_its_provenance(folder, support_model):
    scorer = load_scorer("cross_encoder", model=folder)
    assert scorer.name == "cross_encoder:tiny"
    assert scorer.trained_on == ("qags", "faithbench")
    assert scorer.max_length == 96
    with torch.inference_mode():
        pair = pair_tokenizer()("The lamp was lit.", CLAIMS[0], return_tensors="pt")
        want = float(support_model(**pair).logits.sigmoid())
    assert scorer.score(CLAIMS[:1], [["The lamp was lit."]]) == pytest.approx([want], abs=1e-5)
    assert CrossEncoderScorer(folder, max_length=64).max_length == 64


def test_a_folder_is_needed():
    with pytest.raises(FaithgenError, match=r"needs the folder of a trained one .*train_cross_encoder\.py"):
        load_scorer("cross_encoder")


def test_a_folder_without_provenance(saved, support_model, tmp_path):
    with pytest.raises(FaithgenError, match=r"cannot read .*faithgen_scorer\.json.*No such file"):
        CrossEncoderScorer(saved(support_model, pair_tokenizer(), "bare"))
    with pytest.raises(FaithgenError, match="cannot read"):
        CrossEncoderScorer(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", json.dumps({**ABOUT, "max_length": "96"}), json.dumps({**ABOUT, "format": "x"})]
)
def test_damaged_provenance(folder, text):
    (folder / PROVENANCE).write_text(text)
    with pytest.raises(FaithgenError, match=r"faithgen_scorer\.json"):
        CrossEncoderScorer(folder)


def test_a_model_with_several_outputs_is_refused(saved, nli_model):
    folder = saved(nli_model, pair_tokenizer(), "three")
    (folder / PROVENANCE).write_text(json.dumps(ABOUT))
    with pytest.raises(FaithgenError, match="has 3 outputs, not one"):
        CrossEncoderScorer(folder)
