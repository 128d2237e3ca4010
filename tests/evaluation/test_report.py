import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithgen.evaluation import plots, report
from faithgen.evaluation.metrics.refusal import abstention
from faithgen.evaluation.report import escape_markdown, show_difference, show_estimate, show_p, write_report
from faithgen.evaluation.statistics import (
    ALIKE,
    EXACT,
    Estimate,
    PairedDifference,
    bootstrap_interval,
    paired_bootstrap,
)
from faithgen.evaluation.summary import summarise_run
from tests.evaluation.running import HOSTILE, record, row


class Page(HTMLParser):
    """Tags, anchors, links, images and the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.images, self.text, self.open = [], set(), [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"])
        self.links += [values["href"]] if "href" in values else []
        self.images += [values[name] for name in ("src", "srcset") if name in values]
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def some_rows(count=40, methods=("base", "heads")):
    values = {"base": lambda i: float(i % 3 == 0), "heads": lambda i: float(i % 2 == 0), "cafe": lambda i: 1.0}
    return [row(i, method, values[method](i)) for method in methods for i in range(count)]


def written(tmp_path, given, **changes):
    write_report(tmp_path, record(**changes), given)
    return (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_rows(tmp_path):
    rows = some_rows()
    html, markdown = written(tmp_path, rows, rows=40)
    base = [one["metrics"]["sub_em"] for one in rows if one["method"] == "base"]
    heads = [one["metrics"]["sub_em"] for one in rows if one["method"] == "heads"]
    wanted = [bootstrap_interval(base), bootstrap_interval(heads)]
    pair = paired_bootstrap(heads, base)
    for estimate in wanted:
        cell = f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
        assert cell in html
        assert cell in markdown
    difference = f"{pair.difference.mean:+.3f} [{pair.difference.low:+.3f}, {pair.difference.high:+.3f}]"
    assert difference in html
    assert difference in markdown
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["toy"]["methods"][1]["metrics"]["sub_em"]["mean"] == pytest.approx(sum(heads) / 40)
    assert summary["toy"]["methods"][1]["differences"]["sub_em"]["p_value"] == pair.p_value


def test_missing_values_say_why_and_nan_never_appears(tmp_path):
    rows = [
        row(0, "base", 1.0),
        row(1, "base", None),
        {**{k: v for k, v in row(2, "base", 1.0).items() if k not in ("metrics", "answer")}, "error": "OSError: gone"},
        {**{k: v for k, v in row(3, "base", 1.0).items() if k not in ("metrics", "answer")}, "skipped": "no gold"},
        *(
            {**{k: v for k, v in row(i, "gold", 1.0).items() if k not in ("metrics", "answer")}, "skipped": "no gold"}
            for i in range(4)
        ),
    ]
    changes = {"methods": ("base", "gold", "rhio"), "unavailable": {"rhio": "the model has no control tokens"}}
    html, markdown = written(tmp_path, rows, **changes)
    (figures,) = summarise_run(record(**changes), rows)
    base, gold, rhio = figures.methods
    assert (base.metrics["sub_em"].n, base.metrics["sub_em"].missing) == (1, 3)
    assert base.without == {"error: OSError": 1, "no gold": 1}
    assert gold.metrics["sub_em"].mean is None
    assert rhio.reason == "the model has no control tokens"
    for text in (html, markdown):
        assert "3: 1 error: OSError, 1 no gold, 1 not defined for the row, or not yet run" in text
        assert "4: 4 no gold" in text
        assert "the model has no control tokens" in text
        assert "none: no row has a value" in text
        assert not re.search(r"\bNone\b|(?i:\bnan\b|\binf\b)", text)
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_run_whose_rows_all_failed_has_a_report(tmp_path):
    rows = [
        {
            "dataset": "toy",
            "id": "q0",
            "method": "base",
            "question": "?",
            "answers": [],
            "error": "OSError: x",
            "seconds": 0.1,
        }
    ]
    html, markdown = written(tmp_path, rows, methods=("base",), rows=1)
    assert "1 of 1 rows failed" in html
    assert "1 of 1 rows failed" in markdown


def test_an_unfinished_run_says_so(tmp_path):
    _, markdown = written(tmp_path, some_rows(3), rows=4)
    assert "6 of 8 rows are there" in markdown
    assert "Fewer than 30 rows" in markdown
    assert "Fewer than 30 rows" not in written(tmp_path, some_rows(), rows=40)[1]


def test_rows_of_one_question_are_one_cluster():
    rows = [{**one, "question": f"question {int(one['id'][1:]) // 2}?"} for one in some_rows()]
    (clustered,) = summarise_run(record(rows=40), rows, resamples=500)
    (plain,) = summarise_run(record(rows=40), some_rows(), resamples=500)
    assert (clustered.clustered, plain.clustered) == (True, False)
    assert clustered.methods[0].metrics["sub_em"].mean == plain.methods[0].metrics["sub_em"].mean
    assert clustered.methods[0].metrics["sub_em"].low != plain.methods[0].metrics["sub_em"].low


def test_memorisation_ratio_is_derived():
    rows = some_rows(20)
    for one in rows:
        even = int(one["id"][1:]) % 4 == 0
        one["metrics"] |= {"context_answer": float(not even), "memory_answer": float(even)}
    (figures,) = summarise_run(record(rows=20), rows, resamples=500)
    assert figures.methods[0].metrics["memorisation_ratio"].mean == pytest.approx(0.25)


def test_a_share_that_is_0_everywhere_has_the_exact_interval_and_a_length_has_none(tmp_path):
    rows = [row(i, method, 0.0) for method in ("base", "heads") for i in range(40)]
    for one in rows:
        one["metrics"]["answer_words"] = 1.0
        one["meta"] = {"group": int(one["id"][1:]) % 2}
    html, markdown = written(tmp_path, rows, rows=40)
    high = 1 - 0.025 ** (1 / 40)
    for text in (html, markdown):
        assert f"0.000 [0.000, {high:.3f}] (all alike: exact interval)" in text
        assert f"0.000 [0.000, {1 - 0.025 ** (1 / 20):.3f}] (all alike: exact interval)" in text, "by group"
        assert "1.000 (all alike)" in text
        assert "+0.000 (all alike)" in text
        assert "[0.000, 0.000]" not in text
    summary = json.loads((tmp_path / "summary.json").read_text())["toy"]["methods"][0]["metrics"]
    assert summary["sub_em"]["high"] == pytest.approx(high)
    assert summary["answer_words"]["high"] is None


# --- abstention -------------------------------------------------------------------------------------------------------


def refusing(dataset, answerable, counts, methods=("base", "heads")):
    """Rows of a set, of which each method refuses the first so many."""
    rows = []
    for method, refusals in zip(methods, counts, strict=True):
        for i in range(10):
            refused = float(i < refusals)
            given = row(i, method, None, dataset=dataset, question=f"{dataset} {i}?")
            right = float(bool(refused) != answerable)
            rows.append({**given, "metrics": {"refused": refused, "abstained_rightly": right}})
    return rows


def test_abstention_is_over_a_set_and_its_unanswerable_part(tmp_path):
    sets = ("clapnq", "clapnq_unanswerable", "hagrid")
    rows = refusing("clapnq", True, (1, 4)) + refusing("clapnq_unanswerable", False, (3, 8))
    rows += refusing("hagrid", True, (9, 9))
    failed = rows[25]  # of the unanswerable ones, by base
    rows[25] = {name: value for name, value in failed.items() if name not in ("metrics", "answer")} | {"error": "x"}
    changes = {"sets": sets, "rows": 10, "kind": "long"}
    html, markdown = written(tmp_path, rows, **changes)
    answered, found, other = summarise_run(record(**changes), rows)
    assert answered.abstention is other.abstention is None
    assert found.abstention.datasets == ["clapnq", "clapnq_unanswerable"]
    assert (found.abstention.answerable, found.abstention.unanswerable) == (10, 10)
    base, heads = found.abstention.methods["base"], found.abstention.methods["heads"]
    truth = [True] * 10 + [False] * 10
    assert heads == abstention([1] * 4 + [0] * 6 + [1] * 8 + [0] * 2, truth)
    assert heads["precision"].mean == pytest.approx(8 / 12)
    assert (base["recall"].mean, base["recall"].missing) == (pytest.approx(3 / 9), 1)
    assert base["false_refusals"].mean == pytest.approx(1 / 10)
    for text in (html, markdown):
        assert text.count("Abstention over clapnq, clapnq") == 1
        assert "10 questions that the documents do not answer" in text
        for estimate in (*base.values(), *heads.values()):
            assert show_estimate(estimate) in text
    assert Page(html).open == []
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["clapnq"]["abstention"] is None
    assert summary["clapnq_unanswerable"]["abstention"]["methods"]["heads"]["f1"]["mean"] == pytest.approx(8 / 11)


def test_abstention_over_one_set_that_has_both_kinds_of_questions():
    rows = refusing("toy", True, (1, 4)) + [{**one, "id": f"u{one['id']}"} for one in refusing("toy", False, (3, 8))]
    (found,) = summarise_run(record(rows=20, kind="long"), rows, resamples=100)
    assert (found.abstention.datasets, found.abstention.answerable, found.abstention.unanswerable) == (["toy"], 10, 10)
    (alone,) = summarise_run(record(rows=10, kind="long"), refusing("toy", False, (3, 8)), resamples=100)
    assert alone.abstention is None, "no question that is answered: no false refusals"


def test_groups_break_the_main_metric_down(tmp_path):
    rows = [{**one, "meta": {"group": f"hop {int(one['id'][1:]) % 2}"}} for one in some_rows()]
    (figures,) = summarise_run(record(rows=40), rows, resamples=500)
    assert list(figures.groups) == ["hop 0", "hop 1"]
    assert figures.groups["hop 0"]["heads"].mean == 1.0
    assert figures.groups["hop 1"]["heads"].mean == 0.0
    assert "sub_em by group" in written(tmp_path, rows, rows=40)[0]


def test_a_scorer_that_may_not_carry_a_headline_does_not(tmp_path):
    judged = {"name": "lexical", "mean": 0.9, "minimum": 0.8, "share": 1.0, "sentences": 2, "reason": None}
    rows = [{**one, "scorer": judged} for one in some_rows()]
    for one in rows:
        one["metrics"]["rougeLsum"] = 0.3
    scorer = {
        "name": "lexical",
        "headline": False,
        "reason": "mean AUROC is 0.600",
        "threshold": 0.5,
        "trained_on": [],
    }
    html, _ = written(tmp_path, rows, rows=40, kind="long", scorer=scorer)
    (figures,) = summarise_run(record(rows=40, kind="long", scorer=scorer), rows, resamples=100)
    assert figures.headline == ["rougeLsum"]
    assert "support_mean" in figures.metrics
    assert "may not carry a headline (mean AUROC is 0.600)" in html
    allowed = {**scorer, "headline": True}
    (figures,) = summarise_run(record(rows=40, kind="long", scorer=allowed), rows, resamples=100)
    assert figures.headline == ["support_mean", "rougeLsum"]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_figures_lead_to_the_answers_furthest_from_the_baseline(tmp_path):
    rows = [row(i, "base", 0.5) for i in range(40)] + [row(i, "heads", 0.5) for i in range(40)]
    rows[40 + 17]["metrics"]["sub_em"] = 0.0
    rows[40 + 23]["metrics"]["sub_em"] = 1.0
    html, markdown = written(tmp_path, rows, rows=40)
    page = Page(html)
    assert "#toy-heads" in page.links
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    table = html[html.index('id="toy-heads"') :]
    assert table.index("answer 17 of heads") < table.index("answer 23 of heads")
    assert "answer 17 of base" in table
    assert table.count("of heads</td>") == report.SHOWN
    assert "heads: furthest from base by sub_em" in table
    assert "answer 17 of heads" in markdown


def test_the_baselines_lowest_answers_are_shown(tmp_path):
    html, _ = written(tmp_path, some_rows(), rows=40)
    table = html[html.index('id="toy-base"') : html.index('id="toy-heads"')]
    shown = re.findall(r"answer (\d+) of base", table)
    assert len(shown) == report.SHOWN
    assert all(int(number) % 3 for number in shown)


# --- what a report is made of -----------------------------------------------------------------------------------------


def test_the_page_stands_alone(tmp_path):
    html, _ = written(
        tmp_path, some_rows(methods=("base", "heads", "cafe")), rows=40, methods=("base", "heads", "cafe")
    )
    page = Page(html)
    assert page.open == []
    assert page.images
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.images)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form"}
    assert all(link.startswith("#") for link in page.links)
    policy = next(v["content"] for tag, v in page.tags if v.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in html
    assert any(v.get("name") == "viewport" for _, v in page.tags)
    assert all(v.get("alt") for tag, v in page.tags if tag == "img")
    assert '"baseline": "base"' in "".join(page.text)


def test_hostile_text_is_text(tmp_path):
    rows = some_rows(3)
    for one in rows:
        one |= {"question": HOSTILE, "answer": HOSTILE, "answers": [HOSTILE], "id": HOSTILE + one["id"]}
        one |= {"dataset": HOSTILE, "meta": {"group": HOSTILE + one["id"][-1]}}
    rows.append(
        {
            "dataset": HOSTILE,
            "id": "bad",
            "method": "base",
            "question": "",
            "answers": [],
            "error": HOSTILE,
            "seconds": 0,
        }
    )
    changes = {"sets": (HOSTILE,), "missing": {"x": HOSTILE}, "rows": 3}
    changes["runs"] = [{"command": [HOSTILE], "started": "now", "hardware": {"cpu": HOSTILE}, "versions": {}}]
    html, markdown = written(tmp_path, rows, **changes)
    page = Page(html)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in html
    assert "{{ 7 * 7 }}" in html  # not evaluated
    for text in (html, markdown):
        assert "\u202e" not in text
        assert "\x00" not in text
    assert "<script" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(re.search(r"(?<!\\)\|$", line) for line in tables)
    for block in re.split(r"\n\n+", markdown):
        lines = block.strip().splitlines()
        if lines and all(line.startswith("|") for line in lines):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, block  # cells of a row


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("*x* _y_ `z`", r"\*x\* \_y\_ \`z\`"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[a](http://e.x)", r"\[a\](http\://e.x)"),
        ("www.e.x", r"www\.e.x"),
        ("two\nlines\t", "two lines"),
        ("back\\slash", "back\\\\slash"),
        ("a\x1b[31m\u202e", "a\ufffd\\[31m\ufffd"),
        ("plain text: 3-4, yes!", "plain text: 3-4, yes!"),
    ],
)
def test_markdown_cells(text, shown):
    assert escape_markdown(text) == shown


@given(st.text())
def test_any_text_is_one_cell(text):
    shown = escape_markdown(text)
    assert not re.search(r"[\n\r<>]", shown)
    assert len(re.sub(r"\\.", "", f"| {shown} |").split("|")) == 3


def test_cells_of_figures():
    assert show_estimate(Estimate(0.41234, 0.35, 0.47, 250)) == "0.412 [0.350, 0.470]"
    assert show_estimate(Estimate(None, None, None, 0, 3, "no row has a value")) == "none: no row has a value"
    assert show_estimate(Estimate(0.5, None, None, 1, 0, "one row alone")) == "0.500 (no interval: one row alone)"
    assert show_estimate(None).startswith("none")
    assert show_estimate(Estimate(0.3, None, None, 9, 0, ALIKE)) == "0.300 (all alike)"
    assert show_estimate(Estimate(0.0, 0.0, 0.088, 40, 0, EXACT)) == "0.000 [0.000, 0.088] (all alike: exact interval)"
    assert show_estimate(Estimate(0.5, 0.1, 0.9, 9, 0, "2 lost")) == "0.500 [0.100, 0.900] (2 lost)"
    assert show_difference(PairedDifference(Estimate(0.0, None, None, 9, 0, ALIKE), 1.0)) == "+0.000 (all alike)"
    pair = PairedDifference(Estimate(-0.05, -0.1, 0.0, 9), 0.04, 0.0004)
    assert show_difference(pair) == "-0.050 [-0.100, +0.000]"
    assert show_p(pair) == "<.001"
    assert show_p(PairedDifference(Estimate(0.1, 0.0, 0.2, 9), 0.04, 0.08)) == ".080"
    assert show_p(PairedDifference(Estimate(0.1, 0.0, 0.2, 9), 1.0, 1.0)) == "1"
    assert (show_difference(None), show_p(None)) == ("–", "–")


# --- plots ------------------------------------------------------------------------------------------------------------


def test_plots_are_files_that_the_markdown_names(tmp_path):
    _, markdown = written(tmp_path, some_rows(), rows=40)
    named = re.findall(r"\]\((plots/[^)]+)\)", markdown)
    assert len(named) == 2
    for name in named:
        assert (tmp_path / name).read_text().startswith("<?xml")


def test_bars_leave_out_methods_without_a_value():
    rows = [row(i, "base", 1.0) for i in range(5)] + [row(i, "heads", None) for i in range(5)]
    (figures,) = summarise_run(record(rows=5), rows, resamples=100)
    assert plots.bars(figures, "sub_em", "SubEM") is not None
    assert plots.bars(figures, "nothing", "x") is None
    for one in rows:
        one["metrics"]["sub_em"] = None
    (figures,) = summarise_run(record(rows=5), rows, resamples=100)
    assert plots.bars(figures, "sub_em", "SubEM") is None


def needle_rows():
    return [
        row(i, method, 0.1 * depth / 100, meta={"length": length, "depth": depth, "unit": "words"})
        for method in ("base", "heads")
        for i, (length, depth) in enumerate((n, d) for n in (100, 200) for d in (0, 50, 100))
    ]


def test_needle_map_has_a_cell_for_each_depth_and_length():
    rows = needle_rows()
    whole = plots.needle_map(rows, ["base", "heads"], "sub_em")
    assert whole.light.startswith("<?xml")
    assert whole.light != whole.dark
    assert plots.needle_map(rows[1:], ["base", "heads"], "sub_em").light != whole.light  # an empty cell
    assert plots.needle_map(rows, ["base", "heads"], "nothing") is None
    assert plots.needle_map([row(0, "base", 1.0)], ["base"], "sub_em") is None


def test_needle_map_and_support_stand_in_the_report(tmp_path):
    changes = {"rows": 6}
    needle = record(**changes)
    needle["tasks"]["toy"]["set"] = "niah"
    write_report(tmp_path, needle, needle_rows())
    text = (tmp_path / "report.html").read_text()
    assert "by depth and length of the haystack" in text
    assert "Rows share a few needles" in text
    judged = {"name": "lexical", "mean": 0.9, "minimum": 0.8, "share": 1.0, "sentences": 2, "reason": None}
    rows = [{**one, "scorer": judged} for one in some_rows(10)]
    assert "support by the documents against length" in written(tmp_path, rows, rows=10, kind="long")[0]


def test_names_are_drawn_as_paths_without_markup():
    rows = [row(i, "base", 1.0) for i in range(3)]
    (figures,) = summarise_run(record(methods=("base",), rows=3), rows, resamples=100)
    figures.methods[0].method = "<script>$x^2$\ue000"
    plot = plots.bars(figures, "sub_em", "a & b")
    assert "<script" not in plot.light
    assert "<text" not in plot.light
