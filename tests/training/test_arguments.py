import pytest

pytest.importorskip("trl")

from faithgen.errors import FaithgenError
from faithgen.training import RHIOConfig
from faithgen.training.arguments import parse_arguments

RECIPE = """\
# a comment
model_name_or_path: default
dataset_name: rows.jsonl
output_dir: out
use_cpu: true
bf16: false
learning_rate: 2e-4
lora_target_modules: all-linear
seed: 3
"""


def parse(tmp_path, text=RECIPE, *arguments):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return parse_arguments(RHIOConfig, ["--config", str(path), *arguments], "faithgen train rhio")


def test_a_recipe_is_read_and_the_command_line_wins(tmp_path):
    script, config, model, _ = parse(tmp_path, RECIPE, "--seed", "5", "--overlong", "drop", "--use_peft")
    assert (script.dataset_name, model.model_name_or_path) == ("rows.jsonl", "default")
    assert (config.learning_rate, config.seed, config.overlong) == (2e-4, 5, "drop")
    assert (model.lora_target_modules, model.use_peft, config.max_length) == ("all-linear", True, None)
    path = tmp_path / "recipe.yaml"
    assert parse_arguments(RHIOConfig, [f"--config={path}"], "x")[1].seed == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("overlong: cut", "overlong is 'cut'; allowed: error, drop, truncate_documents"),
        ("learning_rat: 1.0", "unknown key learning_rat; did you mean learning_rate?"),
        ("zzz: 1", "unknown key zzz; see --help"),
        ("seed: many", "seed is 'many'; allowed: a whole number"),
        ("seed: 1.5", "seed is 1.5; allowed: a whole number"),
        ("learning_rate: fast", "learning_rate is 'fast'; allowed: a number"),
        ("use_cpu: maybe", "use_cpu is 'maybe'; allowed: true or false"),
        ("dtype: int8", "dtype is 'int8'; allowed: auto, bfloat16, float16, float32"),
        ("seed: [1, 2]", "seed is a list; allowed: one value"),
        ("env: 3", "env is 3"),
        ("a: [", "not valid YAML"),
        ("max_length: 5", "max_length is 5"),
        ("eval_strategy: often", "often"),
    ],
)
def test_an_error_names_the_key_and_what_is_allowed(tmp_path, line, message):
    with pytest.raises(FaithgenError) as caught:
        parse(
            tmp_path,
            "\n".join(one for one in RECIPE.splitlines() if not one.startswith(line.split(":")[0])) + f"\n{line}\n",
        )
    assert message in str(caught.value)


def test_command_line_errors_are_of_the_same_kind(tmp_path):
    for arguments, message in (
        (["--sed", "1"], "--sed"),
        (["--seed", "x"], "--seed"),
        (["--overlong", "cut"], "invalid choice: 'cut'"),
        (["stray"], "stray"),
    ):
        with pytest.raises(FaithgenError) as caught:
            parse(tmp_path, RECIPE, *arguments)
        assert message in str(caught.value)
    for path, message in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(FaithgenError, match=message):
            parse_arguments(RHIOConfig, ["--config", str(path)], "x")
    with pytest.raises(FaithgenError, match="needs a file"):
        parse_arguments(RHIOConfig, ["--config"], "x")
    with pytest.raises(FaithgenError, match="holds no keys"):
        parse(tmp_path, "- a\n- b\n")
