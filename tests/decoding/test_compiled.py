"""The compiled step gives the tokens and signals of the dynamic one, and its graphs are made once."""

import copy
from types import SimpleNamespace

import accelerate
import pytest
import torch
import transformers
from torch.torch_version import TorchVersion
from transformers import Phi3Config, Phi3ForCausalLM

from faithgen import hf
from faithgen.decoding import compiled as compiled_module
from faithgen.decoding.compiled import CompiledBranches
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.errors import FaithgenError
from faithgen.hf import compiling
from tests import tiny
from tests.decoding.pairs import prompt_ids, prompts
from tests.decoding.test_engine import broken, naive_masked

OPTIONS = {"end_tokens": range(5, 30), "masked_heads": [(1, 0), (3, 3)], "watched_heads": [(1, 2), (3, 1), (3, 4)]}


@pytest.fixture(scope="module")
def model():
    return tiny.llama(initializer_range=0.1)  # no near ties between tokens


@pytest.fixture
def graphs(monkeypatch):
    """Compile for a backend that runs the graph as it is, and count the graphs: what breaks one is an error."""
    made, original = [], torch.compile

    def run_as_it_is(graph, inputs):
        made.append(graph)
        return graph.forward

    def compile(function, mode=None, backend=None, **options):
        return original(function, backend=run_as_it_is, **options)

    monkeypatch.setattr(torch, "compile", compile)
    compiled_module._free.clear()
    return made


def run(model, given, compiled, slots=3, n=16, ablation="zero", **options):
    found = {}
    contrast = ContrastConfig(alpha=0.8, ablation=ablation)
    options = {**OPTIONS, **options}
    for rows in PairDecoder(model, given, contrast, slots=slots, max_new_tokens=n, compiled=compiled, **options):
        for row in rows:
            found.setdefault(row.question, []).append(row)
    return found


def same(first, second):
    assert first.keys() == second.keys()
    for question, rows in first.items():
        assert [row.token for row in rows] == [row.token for row in second[question]]
        assert [row.finished for row in rows] == [row.finished for row in second[question]]
        for name in ("logprob", "jsd", "context_share"):
            values = [getattr(row, name) for row in rows]
            if values[0] is not None:
                assert values == pytest.approx([getattr(row, name) for row in second[question]], abs=2e-4)
        if rows[0].detail is not None:
            for one, other in zip(rows, second[question], strict=True):
                assert one.detail.attention == pytest.approx(other.detail.attention, abs=1e-5)


@pytest.mark.parametrize("ablation", ["zero", "uniform"])
@pytest.mark.parametrize("slots", [1, 3, None])
@pytest.mark.parametrize("kind", ["tree", "rows", "plain"])
def test_a_compiled_step_changes_no_answer(model, graphs, kind, slots, ablation):
    options = {"slots": slots, "ablation": ablation}
    same(run(model, prompts(kind), True, **options), run(model, prompts(kind), False, **options))
    assert len(graphs) == 1, "questions of all lengths came and went on one graph"


def test_graphs_serve_the_next_request(model, graphs):
    for start in range(3):
        run(model, prompts("tree")[start : start + 4], True)
    assert len(graphs) == 1
    run(model, prompts("tree"), True, slots=2)  # another shape
    assert len(graphs) == 2
    for masked in ([(1, 1)], [(2, 2)]):  # other heads
        same(
            run(model, prompts("tree")[:2], True, masked_heads=masked),
            run(model, prompts("tree")[:2], False, masked_heads=masked),
        )
    assert len(compiled_module._free[model]) == 4, "each has its table"


def test_prompts_of_all_lengths_share_few_graphs(model, graphs, monkeypatch):
    """Whatever the order they come in; no table has over twice the columns that are needed."""
    monkeypatch.setattr(compiled_module, "_BUCKET", 32)
    taken, take = [], CompiledBranches._take_table

    def watched(self, like, width):
        table = take(self, like, width)
        taken.append((width + self.room, table.columns))
        return table

    monkeypatch.setattr(CompiledBranches, "_take_table", watched)
    options = {"slots": 1, "n": 4}
    for length in (20, 60, 130) * 2 + (100, 40):
        given = prompts("tree", (length,))
        same(run(model, given, True, **options), run(model, given, False, **options))
    assert [columns for _, columns in taken] == [32, 96, 192] * 2 + [192, 96]
    assert len(graphs) == 3


def test_columns_and_parts_come_in_few_numbers():
    assert [compiled_module._columns(n) for n in (1, 512, 513, 768, 769, 1025, 1537)] == [
        *(512, 512, 768, 768, 1024, 1536, 2048)
    ]
    assert [compiled_module._parts(n) for n in (1, 2, 16, 17, 33)] == [1, 16, 16, 32, 64]
    sizes = {compiled_module._columns(n) for n in range(1, 8193)}
    assert len(sizes) == 9
    assert all(compiled_module._columns(n) < 1.5 * n + 512 for n in range(1, 8193))


def test_free_tables_are_bounded_by_bytes_and_number(monkeypatch):
    monkeypatch.setattr(compiled_module, "_KEPT_BYTES", 100)
    free = []

    def kept(*sizes):
        for size in sizes:
            compiled_module._put_back(free, (), SimpleNamespace(nbytes=size))
        return [table.nbytes for _, table in free]

    assert kept(40, 30, 30) == [40, 30, 30]
    assert kept(20) == [30, 30, 20], "the oldest goes"
    assert kept(500) == [500], "the newest stays whatever its size"
    assert kept(*[1] * 20) == [1] * compiled_module._KEPT_TABLES


def test_a_longer_prompt_moves_to_a_larger_table(model, graphs, monkeypatch):
    """The rows of those on their way move along."""
    monkeypatch.setattr(compiled_module, "_BUCKET", 32)
    lengths = (20, 24, 150, 18, 70, 200)
    given = {"end_tokens": range(5, 60), "slots": 2, "n": 24}
    same(run(model, prompts("tree", lengths), True, **given), run(model, prompts("tree", lengths), False, **given))
    assert len(graphs) > 1


def test_columns_of_finished_questions_are_used_again(model, graphs, monkeypatch):
    monkeypatch.setattr(compiled_module, "_BUCKET", 8)
    tables = []
    make_room = CompiledBranches._make_room

    def watched(self, width):
        make_room(self, width)
        tables.append(self.table.seen.shape[-1])

    monkeypatch.setattr(CompiledBranches, "_make_room", watched)
    many = prompts("plain", (30,) * 20)
    same(run(model, many, True, slots=2, n=9), run(model, many, False, slots=2, n=9))
    assert max(tables) <= compiled_module._columns(30 + 2 * (9 + 1))
    assert len(graphs) <= 2


def test_parts_of_documents_are_told_apart(model, graphs):
    options = {"alternatives": 3}
    same(run(model, prompts("tree"), True, **options), run(model, prompts("tree"), False, **options))
    assert len(graphs) == 1
    for count in (3, 5):  # the graph is the same, the answer has a share for each part
        given = prompts("tree")[:2]
        for prompt in given:
            prompt.documents = [(2 * part, 2 * part + 1) for part in range(count)]
        same(run(model, given, True, **options), run(model, given, False, **options))
    assert len(graphs) == 1


def test_a_table_is_given_back_when_its_branches_go(model, graphs):
    decoder = PairDecoder(
        model, prompts("tree"), ContrastConfig(alpha=0.8), slots=3, max_new_tokens=9, compiled=True, **OPTIONS
    )
    steps = iter(decoder)
    next(steps)
    next(steps)
    assert not compiled_module._free.get(model)
    steps.close()
    del steps, decoder
    assert len(compiled_module._free[model]) == 1


def rotary(kind, **parameters):
    """Phi-3 with these rotary embeddings, made for 64 positions before."""
    torch.manual_seed(0)
    rope = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": 64, **parameters}
    shape = {**tiny.SHAPE, "max_position_embeddings": 256, "original_max_position_embeddings": 64}
    shape |= {"initializer_range": 0.1, "pad_token_id": 2, "sliding_window": None}
    return Phi3ForCausalLM(Phi3Config(**shape, rope_parameters=rope)).eval()


def one_by_one(model, compiled, requests, **options):
    """The same question asked anew; a table of two slots, one of them free throughout."""
    ids = prompt_ids(20)
    given = {"slots": 2, "end_tokens": [], **options}
    return [tokens(run(model, [PairPrompt(ids, ids)], compiled, **given)) for _ in range(requests)]


def tokens(found):
    return [[row.token for row in found[question]] for question in sorted(found)]


def test_free_slots_stay_in_the_window_of_learned_positions(graphs):
    """gpt2 has no embedding for a position past its window, so a row that went on with each request would raise."""
    model = tiny.gpt2(initializer_range=0.1, n_positions=48)
    assert len({str(found) for found in one_by_one(model, True, 5)}) == 1
    assert len(graphs) == 1


def test_free_slots_do_not_turn_longrope_to_its_long_factors(graphs):
    """Phi-3's longrope takes the largest position of all rows to choose its factors."""
    model = rotary("longrope", short_factor=[1.0] * 4, long_factor=[3.0] * 4, factor=4.0)
    found = one_by_one(model, True, 7)
    assert found == one_by_one(model, False, 1) * 7


def test_rows_of_finished_questions_rest(model, graphs):
    decoder = PairDecoder(
        model, prompts("rows")[:3], ContrastConfig(alpha=0.8), slots=3, max_new_tokens=9, end_tokens=[], compiled=True
    )
    steps = iter(decoder)
    next(steps)
    decoder.finish(1)
    for _ in range(3):
        next(steps)
    table = decoder._groups[0].branches.table
    assert table.live.tolist() == [1, 1, 0, 0, 1, 1]
    assert table.positions.tolist() == [27, 14, 0, 0, 36, 14]


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
def test_windowed_models_run_uncompiled(family, graphs):
    model = getattr(tiny, family)(initializer_range=0.1)
    given = [prompts("rows", (24, 33))[0]]
    same(run(model, given, True), run(model, given, False))
    assert graphs == []


def test_rotary_embeddings_that_choose_their_code_run_uncompiled(graphs):
    """`torch.compile` refuses a step whose code depends on the positions."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = tiny.llama(initializer_range=0.1, rope_parameters=rope)
    same(run(model, prompts("tree")[:2], True), run(model, prompts("tree")[:2], False))
    assert graphs == []
    assert not hf.compiles(tiny.gemma3())  # a type of rotary embeddings for each type of layer


def test_a_model_on_several_devices_runs_uncompiled(graphs):
    model = tiny.llama(initializer_range=0.1)
    given, options = prompts("tree")[:2], {"masked_heads": [], "watched_heads": []}
    expected = run(model, given, False, **options)
    accelerate.cpu_offload(model, execution_device="cpu")
    assert not hf.compiles(model)
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    assert hf.compiles(model)
    same(run(model, prompts("tree")[:2], True, **options), expected)
    model.lm_head.to("meta")
    assert not hf.compiles(model)


def test_cuda_asks_for_a_torch_that_can(model, monkeypatch):
    for version, expected in [("2.9.1+cu128", False), ("2.12.1", False), ("2.13.0+cu130", True), ("3.0", True)]:
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        assert hf.compiles(model), "on a CPU any torch will do"
        with monkeypatch.context() as cuda:
            cuda.setattr(compiling, "device_of", lambda model: torch.device("cuda"))
            assert hf.compiles(model) is expected


def test_without_a_compiler_one_line_says_so(model, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FaithgenError, match="'no-such-compiler' is not found; install one"):
        hf.check_compiler(model)
    hf.check_compiler(tiny.gemma3())  # runs uncompiled
    monkeypatch.setattr(compiling, "device_of", lambda model: torch.device("cuda"))
    hf.check_compiler(model)


def test_longrope_asks_for_a_transformers_that_can(monkeypatch):
    model = rotary("longrope", short_factor=[1.0] * 4, long_factor=[3.0] * 4, factor=4.0)
    for version, expected in [("5.20.2", False), ("5.21.0", True), ("5.23.0", True)]:
        monkeypatch.setattr(transformers, "__version__", version)
        assert hf.compiles(model) is expected


def test_twenty_answers_of_64_tokens_are_those_of_the_formula(graphs):
    """Two forwards a step, the other one by a model whose heads are broken in its weights."""
    model = tiny.llama(initializer_range=0.1, num_hidden_layers=2)
    heads = [(1, 0), (0, 3)]
    given = prompts("tree", [17 + 23 * index % 60 for index in range(20)])
    options = {"slots": 4, "n": 64, "end_tokens": [], "masked_heads": heads, "watched_heads": [(1, 2)]}
    other = broken(model, heads, "zero")
    expected = [naive_masked(model, other, prompt.faithful, 64, alpha=0.8) for prompt in given]
    assert tokens(run(model, given, True, **options)) == expected
    assert len(graphs) == 1


def test_the_attention_in_use_is_put_back(model, graphs):
    before = copy.deepcopy(model.config._attn_implementation)
    run(model, prompts("tree")[:2], True)
    assert model.config._attn_implementation == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, while it compiles
@pytest.mark.parametrize("slots", [1, 3])
def test_inductor_gives_the_same_tokens(slots):
    """PyTorch's own compiler; for one question with linear layers as sums of products, for three with the library's."""
    model = tiny.llama(initializer_range=0.1, num_hidden_layers=2)
    options = {"masked_heads": [(1, 0), (0, 3)], "watched_heads": [(1, 2)], "n": 24, "slots": slots}
    same(run(model, prompts("tree"), True, **options), run(model, prompts("tree"), False, **options))
