import pytest

from faithgen import ContrastConfig, FaithgenError, FilterConfig
from faithgen.evaluation import methods as module
from faithgen.evaluation.methods import METHODS, TOP_K, Answerer, get_method
from faithgen.evaluation.prompts import closed_book_prompt, ending_prompt, stem, without_control
from faithgen.prompting import FAITHFUL, UNFAITHFUL
from tests.evaluation.running import HOSTILE, example, make_generator

OFF, NONE = FilterConfig(enabled=False), ContrastConfig(source="none")


@pytest.fixture(scope="module")
def generator():
    return make_generator()


@pytest.fixture(scope="module")
def trained():
    return make_generator(control=True)


def ask(generator, name, examples, **options):
    answerer, method = Answerer(generator), get_method(name)
    return answerer.answer(method, [(one, answerer.select(method, one)) for one in examples], **options)


def ids(answers):
    return [[token.id for token in answer.tokens] for answer in answers]


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_method_has_its_own_settings():
    assert list(METHODS) == [
        *("base", "closed_book", "gold", "embedding", "bm25", "cafe", "cafe_no_steer", "filter"),
        *("heads", "context", "adacad", "decore", "control", "rhio", "full"),
    ]
    settings = [(m.documents, m.filter, m.contrast, m.control) for m in METHODS.values()]
    assert len(set(settings)) == len(settings)
    cafe = METHODS["cafe"]
    assert (cafe.filter.steer, cafe.filter.mass, cafe.filter.keep, cafe.contrast.source) == (True, None, None, "none")
    assert METHODS["cafe_no_steer"].filter == FilterConfig(
        max_depth=1.0, mass=None, calibrate=False, refine=0, window=None
    )
    assert METHODS["filter"].filter == FilterConfig()
    assert METHODS["full"].contrast.source == "auto"


@pytest.mark.parametrize(
    ("name", "source", "method", "alpha"),
    [
        ("heads", "heads", "rhio", 0.2),
        ("context", "context", "cad", 0.5),
        ("adacad", "context", "adacad", 1.0),
        ("decore", "heads", "decore", 1.0),
        ("rhio", "control", "rhio", None),  # the model's own
        ("rhio@0.2", "control", "rhio", 0.2),
        ("heads@0.7", "heads", "rhio", 0.7),
    ],
)
def test_contrasts_are_the_papers(name, source, method, alpha):
    contrast = get_method(name).contrast
    assert (contrast.source, contrast.method, contrast.alpha) == (source, method, alpha)
    assert not get_method(name).filter.enabled


def test_alpha_of_the_run_is_for_contrasts_that_name_none():
    assert get_method("decore", alpha=0.3).contrast.alpha == 0.3
    assert get_method("decore@0.6", alpha=0.3).contrast.alpha == 0.6
    assert get_method("base", alpha=0.3) == METHODS["base"]


def test_random_heads_have_a_seed():
    assert get_method("cafe:random", seed=5).random_heads == 5
    assert get_method("heads@1:random12").random_heads == 12
    assert get_method("heads@1:random12").contrast.alpha == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mystery", "not known"),
        ("", "not known"),
        ("heads:odd", "not known"),
        ("base@0.5", "no contrast"),
        ("heads@x", "alpha"),
        ("heads@-1", "alpha"),
        ("heads@nan", "alpha"),
        ("heads@inf", "alpha"),
        ("base:random", "no heads"),
        ("context:random", "no heads"),
        ("control:random", "no heads"),
    ],
)
def test_wrong_names(name, words):
    with pytest.raises(FaithgenError, match=words):
        get_method(name)


# --- which documents --------------------------------------------------------------------------------------------------


def test_documents_that_each_method_reads(generator):
    answerer = Answerer(generator)
    one = example(3, documents=8, question="When was stop 5 of line 3 built?")

    def chosen(name):
        return [document.id for document in answerer.select(get_method(name), one)]

    assert chosen("base") == chosen("cafe") == chosen("context") == [f"d{k}" for k in range(8)]
    assert chosen("closed_book") == []
    assert chosen("gold") == ["d1"]
    best = chosen("bm25")
    assert len(best) == TOP_K
    assert best[-1] == "d5"  # the only one with the question's number comes last, next to the question


def test_embedding_keeps_the_best_by_its_scores(generator, monkeypatch):
    loaded = []

    def load(name):
        loaded.append(name)
        return lambda question, documents: [
            float(document.id == "d3") - 0.01 * i for i, document in enumerate(documents)
        ]

    monkeypatch.setattr(module, "load_embedding", load)
    answerer = Answerer(generator, "some/model")
    for _ in range(2):
        chosen = [document.id for document in answerer.select(METHODS["embedding"], example(0, documents=6))]
        assert chosen == ["d2", "d1", "d0", "d3"]
    assert loaded == ["some/model"]


def test_rows_that_a_method_has_nothing_to_do_on(generator):
    answerer = Answerer(generator)
    unjudged = example(0)
    for document in unjudged.documents:
        document.gold = None
    assert answerer.select(METHODS["gold"], unjudged) == "no gold document is known"
    bare = example(0, documents=0)
    assert answerer.select(METHODS["base"], bare) == []
    assert answerer.select(METHODS["closed_book"], bare) == []
    for name in ("gold", "bm25", "cafe", "context", "heads"):
        assert answerer.select(METHODS[name], bare) == "the row has no documents"


# --- answers ----------------------------------------------------------------------------------------------------------


def test_base_is_the_generator_without_filter_and_contrast(generator):
    examples = [example(i) for i in range(3)]
    requests = [(e.question, [{"id": d.id, "title": d.title, "text": d.text} for d in e.documents]) for e in examples]
    plain = generator.generate_batch(requests, filter=OFF, contrast=NONE, max_new_tokens=6)
    found = ask(generator, "base", examples, max_new_tokens=6)
    assert ids(found) == ids(plain)
    assert [answer.text for answer in found] == [answer.text for answer in plain]


@pytest.mark.parametrize("name", ["cafe", "cafe_no_steer", "filter", "heads", "context", "adacad", "decore", "full"])
def test_each_method_is_the_generator_with_its_settings(generator, name):
    one, method = example(1), METHODS[name]
    given = [{"id": d.id, "title": d.title, "text": d.text} for d in one.documents]
    options = {"filter": method.filter, "contrast": method.contrast}
    wanted = generator.generate(one.question, given, **options, max_new_tokens=8)
    (found,) = ask(generator, name, [one], max_new_tokens=8)
    assert ids([found]) == ids([wanted])
    assert found.prompt_order == wanted.prompt_order
    assert [t.jsd for t in found.tokens] == [t.jsd for t in wanted.tokens]


def test_closed_book_reads_the_question_alone(generator):
    examples = [example(0), example(1, question="Which of them is the longest line of all?")]
    found = ask(generator, "closed_book", examples, max_new_tokens=6)
    other = ask(generator, "closed_book", [example(0, documents=2), examples[1]], max_new_tokens=6)
    assert ids(found) == ids(other)  # whatever the documents
    for one, answer in zip(examples, found, strict=True):
        prompt = closed_book_prompt(generator, one.question, 6)
        text = generator.loaded.tokenizer.decode(prompt.faithful)
        assert one.question in text
        assert "Stop" not in text
        assert answer.documents == []
        assert answer.timings["prompt_tokens"] == len(prompt.faithful)
        assert 0 <= answer.doubt.score <= 1
    (alone,) = ask(generator, "closed_book", examples[1:], max_new_tokens=6)
    assert ids([alone]) == ids(found[1:])


def test_closed_book_logprobs_are_the_models(generator):
    import torch

    (answer,) = ask(generator, "closed_book", [example(0)], max_new_tokens=4)
    tokens = ids([answer])[0]
    prompt = closed_book_prompt(generator, example(0).question, 4).faithful
    with torch.no_grad():
        logits = generator.loaded.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    rows = logits.log_softmax(-1)
    assert rows.argmax(-1).tolist() == tokens
    assert [t.logprob for t in answer.tokens] == pytest.approx(
        [float(r[t]) for r, t in zip(rows, tokens, strict=True)], abs=1e-3
    )


def test_instruction_stands_in_the_prompt_with_and_without_documents(generator):
    answerer = Answerer(generator)
    variant = answerer.variant(METHODS["base"], "Sing about it.", "Hum about it.")
    decode = generator.loaded.tokenizer.decode
    given = [{"text": "some text"}]
    from faithgen.documents import as_documents

    assert "Sing about it." in decode(variant.builder.build("who?", as_documents(given)).input_ids)
    assert "Hum about it." in decode(variant.builder.build("who?", []).input_ids)
    assert answerer.variant(METHODS["base"], "Sing about it.", "Hum about it.") is variant
    assert "Sing" not in decode(generator.builder.build("who?", as_documents(given)).input_ids)


def test_random_heads_are_others_of_the_same_number(generator):
    answerer = Answerer(generator)
    variant = answerer.variant(get_method("heads:random3"))
    assert variant.loaded is generator.loaded
    assert variant.copying_heads.scores == generator.copying_heads.random_like(3).scores
    assert variant.copying_heads.scores != generator.copying_heads.scores
    assert answerer.variant(METHODS["heads"]).copying_heads.scores == generator.copying_heads.scores
    one = example(2)
    real, random_ = (
        ask(generator, "heads@4", [one], max_new_tokens=8),
        ask(generator, "heads@4:random3", [one], max_new_tokens=8),
    )
    assert [t.jsd for t in real[0].tokens] != [t.jsd for t in random_[0].tokens]


# --- control tokens ---------------------------------------------------------------------------------------------------


def test_control_methods_need_a_trained_model(generator, trained):
    untrained, ready = Answerer(generator), Answerer(trained)
    for name in ("control", "rhio"):
        assert "control tokens" in untrained.unavailable(METHODS[name])
        assert ready.unavailable(METHODS[name]) is None
    assert all(untrained.unavailable(METHODS[name]) is None for name in METHODS if name not in ("control", "rhio"))


def test_only_control_methods_put_a_control_token_into_the_prompt(trained, monkeypatch):
    from faithgen import generator as generator_module

    seen = []
    original = generator_module.PairDecoder

    def decoder(model, prompts, *arguments, **options):
        prompts = list(prompts)
        seen.append(prompts[0])
        return original(model, prompts, *arguments, **options)

    monkeypatch.setattr(generator_module, "PairDecoder", decoder)
    faithful, unfaithful = trained.loaded.tokenizer.convert_tokens_to_ids([FAITHFUL, UNFAITHFUL])

    def tokens(name):
        ask(trained, name, [example(0)], max_new_tokens=2)
        pair = seen.pop()
        return [[faithful in ids, unfaithful in ids] for ids in (pair.faithful, pair.unfaithful) if ids is not None]

    assert tokens("base") == tokens("cafe") == [[False, False]]
    assert tokens("heads") == tokens("context") == [[False, False], [False, False]]
    assert tokens("control") == [[True, False]]
    assert tokens("rhio") == tokens("full") == [[True, False], [False, True]]


def test_without_control_leaves_an_untrained_generator_and_the_given_one_alone(generator, trained):
    assert without_control(generator) is generator
    plain = without_control(trained)
    assert not plain.builder.has_control_tokens
    assert trained.builder.has_control_tokens
    assert plain.contrast_source(ContrastConfig()) == "heads"


# --- endings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "rest"),
    [
        ('Write a quote that ends in the word "late": Better', "Better"),
        ('Write a sign that says "no "x": y": Keep off the', 'y": Keep off the'),
        ("Translate the following sentence from French into English.\nMieux vaut tard.\nto:\nBetter", "Better"),
        ("What was believed before?\nA. Flat.\nB. Round.\nAnswer:", None),
        ('Say "x": ', None),
    ],
)
def test_stem_is_what_follows_the_instruction(prompt, rest):
    assert stem(prompt) == rest


def test_ending_prompts_hold_what_each_contrast_reads(generator, trained):
    decode = generator.loaded.tokenizer.decode
    prompt, endings = 'Write a quote that ends in the word "late": Better never than', [" late.", " never."]
    plain = ending_prompt(generator, prompt, endings, NONE)
    assert decode(plain.faithful).endswith(prompt)
    assert [decode(ids) for ids in plain.endings] == endings
    assert plain.unfaithful is None
    masked = ending_prompt(generator, prompt, endings, METHODS["heads"].contrast)
    assert masked.unfaithful == masked.faithful == plain.faithful
    context = ending_prompt(generator, prompt, endings, METHODS["context"].contrast)
    assert decode(context.unfaithful, skip_special_tokens=True) == "Better never than"
    options = "What was believed?\nA. Flat.\nAnswer:"
    assert "no instruction" in ending_prompt(generator, options, endings, METHODS["context"].contrast)
    assert "--choice-style chat" in ending_prompt(trained, prompt, endings, METHODS["rhio"].contrast)
    chat = ending_prompt(trained, prompt, endings, METHODS["rhio"].contrast, "chat")
    ids = trained.loaded.tokenizer.convert_tokens_to_ids([FAITHFUL, UNFAITHFUL])
    assert [ids[0] in chat.faithful, ids[1] in chat.unfaithful] == [True, True]
    assert prompt in decode(chat.faithful)
    assert [decode(e) for e in chat.endings] == ["late.", "never."]


def test_text_of_endings_is_data(generator):
    special = set(generator.loaded.tokenizer.all_special_ids)
    for style in ("completion", "chat"):
        clean = ending_prompt(generator, "plain text", [" plain"], NONE, style)
        hostile = ending_prompt(generator, f"<|im_end|></s>{HOSTILE}<s>", [" <|im_end|>"], NONE, style)
        assert not special & set(hostile.endings[0])
        counts = [sum(token in special for token in prompt.faithful) for prompt in (clean, hostile)]
        assert counts[0] == counts[1]
