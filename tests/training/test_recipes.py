import shlex

import pytest
import yaml

pytest.importorskip("trl")

from faithgen.training import RetMaskConfig, RHIOConfig
from faithgen.training.arguments import parse_arguments
from tests.conftest import ROOT

CONFIGS = {"rhio": RHIOConfig, "retmask": RetMaskConfig}
RECIPES = [path.relative_to(ROOT) for method in CONFIGS for path in sorted((ROOT / "recipes" / method).glob("*.yaml"))]
ACCELERATE = sorted((ROOT / "recipes/accelerate").glob("*.yaml"))


def command_of(path):
    first = (ROOT / path).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    return shlex.split(first[2:])


def test_there_are_recipes_for_every_model_and_machine():
    for method in CONFIGS:
        names = {path.stem for path in RECIPES if path.parent.name == method}
        models = ("smollm2", "llama-3.1-8b", "qwen3-8b")
        assert names == {"default_cpu", *(f"{model}_{kind}" for model in models for kind in ("gpu", "fsdp2", "zero2"))}


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_says_its_command_and_is_understood(path, tmp_path):
    method = path.parent.name
    command = command_of(path)
    start = command.index("faithgen")
    assert command[start:] == ["faithgen", "train", method, "--config", str(path)]
    if start:
        assert command[:2] == ["accelerate", "launch"]
        assert (ROOT / command[command.index("--config_file") + 1]).is_file()
    assert bool(start) == path.stem.endswith(("fsdp2", "zero2"))
    keys = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    assert all(isinstance(value, str | int | float | bool) for value in keys.values())  # flat
    script, config, model, _ = parse_arguments(
        CONFIGS[method], ["--config", str(ROOT / path), "--use_cpu", "true"], f"faithgen train {method}"
    )
    assert model.model_name_or_path
    assert script.dataset_name.endswith(".jsonl")
    assert config.output_dir.startswith("outputs/")
    assert model.use_peft != path.stem.endswith("fsdp2")
    assert config.max_length >= 1024
    # only the packaged model's recipe leaves long rows of one's own data out
    assert config.overlong == ("drop" if path.stem == "default_cpu" else "error")
    if method == "retmask" and model.use_peft:
        assert config.disable_dropout
        assert model.lora_dropout == 0  # another value would have no effect
    if method == "rhio":
        assert config.share_prompt
        assert model.attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_says_in_one_line_how_its_rows_are_made(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if "faithgen data unfaithful" in line)
    command = shlex.split(line[line.index("faithgen data unfaithful") :])
    keys = yaml.safe_load("\n".join(lines))
    found = click_command("data", "unfaithful").make_context("unfaithful", command[3:], resilient_parsing=False).params
    assert found["output"].as_posix() == keys["dataset_name"]
    assert found["model"] == keys["model_name_or_path"]
    assert found["own_answers"] == (path.parent.name == "retmask")


def click_command(*names):
    import typer

    from faithgen.cli import app

    command = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return command


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_understands_its_configs(path):
    from accelerate.commands.config.config_args import ClusterConfig

    command = command_of(path)
    assert command[:4] == ["accelerate", "launch", "--config_file", str(path.relative_to(ROOT))]
    assert (ROOT / command[command.index("--config") + 1]).is_file()
    config = ClusterConfig.from_yaml_file(path)
    assert config.num_processes >= 2
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
    if path.stem == "zero2":
        assert config.deepspeed_config["zero_stage"] == 2
