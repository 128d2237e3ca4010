import dataclasses
import inspect

import pytest

pytest.importorskip("trl")

from trl import DPOConfig, SFTConfig

from faithgen.errors import FaithgenError
from faithgen.training import RetMaskConfig, RHIOConfig


@pytest.mark.parametrize(("config", "parent"), [(RHIOConfig, SFTConfig), (RetMaskConfig, DPOConfig)])
def test_every_field_of_ours_is_documented_with_its_source(config, parent):
    ours = config.__annotations__
    documented = inspect.getdoc(config)
    fields = {field.name: field for field in dataclasses.fields(config)}
    assert ours
    for name in ours:
        entry = documented.split(f"{name} (`")[1].split("(`")[0]
        assert "Source: " in entry, name
        assert "Source: " in fields[name].metadata["help"], name
    theirs = {field.name: field for field in dataclasses.fields(parent)}
    for name, field in fields.items():
        if name in theirs and name not in ours:
            assert field.default == theirs[name].default, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlong": "cut"}, "overlong is 'cut'; allowed: error, drop, truncate_documents"),
        ({"control_position": "middle"}, "control_position is 'middle'; allowed: end, front"),
        ({"unfaithful_weight": -1}, "unfaithful_weight is -1; allowed: a number of 0 or more"),
        ({"unfaithful_weight": float("nan")}, "unfaithful_weight is nan"),
        ({"max_length": 3}, "max_length is 3; allowed: a number of 32 or more"),
        ({"packing": True}, "packing is True; allowed: False"),
        ({"padding_free": True}, "padding_free is True"),
        ({"completion_only_loss": False}, "completion_only_loss is False; allowed: null, True"),
        ({"assistant_only_loss": True}, "assistant_only_loss is True"),
        ({"loss_type": "dft"}, "loss_type is 'dft'; allowed: nll"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        ({"truncation_mode": "keep_end"}, "truncation_mode is 'keep_end'; allowed: keep_start"),
        ({"instruction": " "}, "instruction is empty"),
        ({"seed": -1}, "seed is -1; allowed: a number of 0 to 4294967295"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; allowed: a number of 0 or more"),
        ({"neftune_noise_alpha": -1.0}, "neftune_noise_alpha is -1.0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; allowed: a number of 1 or more"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"max_steps": 0, "num_train_epochs": 0}, "num_train_epochs is 0; allowed: a number above 0"),
        ({"share_prompt": True, "control_position": "front"}, "share_prompt needs control_position: end"),
        ({"share_prompt": True, "unfaithful_weight": 0.0}, "share_prompt needs unfaithful_weight"),
    ],
)
def test_what_would_move_prompt_answer_or_loss_is_refused(options, changes, message):
    with pytest.raises(FaithgenError) as caught:
        RHIOConfig(**{**options, **changes})
    assert str(caught.value).startswith(message)


def test_the_same_for_preference_training(options):
    for changes in (
        {"overlong": "cut"},
        {"truncation_mode": "keep_end"},
        {"max_length": 3},
        {"padding_free": True},
        {"seed": -1},
        {"beta": -1.0},
        {"beta": 0.0},
        {"loss_type": "nonsense"},
        {"loss_type": ["sigmoid", "nonsense"]},
    ):
        with pytest.raises(FaithgenError, match=f"{next(iter(changes))} is"):
            RetMaskConfig(**{**options, **changes})


def test_the_losses_are_those_of_trl(options):
    from faithgen.training.retmask_config import LOSSES

    (field,) = (field for field in dataclasses.fields(DPOConfig) if field.name == "loss_type")
    listed = field.metadata["help"].partition("Possible values are: ")[2].partition(". If")[0]
    assert tuple(listed.replace("`", "").replace("'", "").split(", ")) == LOSSES
    assert RetMaskConfig(**options).loss_type == ["sigmoid"]
