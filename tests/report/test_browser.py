"""The page in a browser: what it does, and what it keeps hostile texts from doing.

Without Chromium these tests are skipped, and with FAITHGEN_REQUIRE_BROWSER (as in `.ci/run`) they fail.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from faithgen import Document
from faithgen.report import write_report
from faithgen.report.look import DARK, LIGHT
from tests.report.making import DOCUMENTS, head_sets, make_answer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
ATTACKS = [
    "<script>window.__pwned = 1</script>",
    '"><img src=x onerror="window.__pwned = 1">',
    "</script><script>window.__pwned = 1</script>",
    "<svg onload=window.__pwned=1></svg>",
    "' autofocus onfocus='window.__pwned = 1",
    "<iframe srcdoc='<script>parent.__pwned = 1; alert(1)</script>'></iframe>",
    "<!--<script>",
    "</style><style>* { display: none }</style>",
    "javascript:window.__pwned=1",
]


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("pip install playwright")
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not os.path.exists(path):
            missing(f"no browser found (looked for {', '.join(BROWSERS)}); apt-get install chromium")
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


def missing(reason):
    (pytest.fail if os.environ.get("FAITHGEN_REQUIRE_BROWSER") else pytest.skip)(reason)


@pytest.fixture
def show(browser, tmp_path):
    """Open the page of an answer, or a file; at the end nothing may have been complained about, asked or loaded."""
    contexts, troubles = [], []

    def call(answer=None, source=None, strict=True, **options):
        path = tmp_path / f"{len(contexts)}.html"
        if isinstance(source, Path):
            path = source
        elif source is None:
            write_report(answer or make_answer(), path, **head_sets())
        else:
            path.write_text(source, encoding="utf-8")
        context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        if strict:
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("request", lambda request: request.url == path.as_uri() or troubles.append(request.url))
            page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert troubles == []


def lit(page):
    return {one.get_attribute("id"): one.get_attribute("data-share") for one in page.locator(".lit").all()}


def card(page):
    return page.locator("#token-card")


# --- what it does -----------------------------------------------------------------------------------------------------


def test_it_shows_all_its_parts(show):
    page = show()
    assert page.title() == "Who built the mill? – faithgen"
    assert page.locator("#answer").inner_text() == "The mill is Ada's. She built it."
    assert page.locator(".sentence").count() == 2
    assert page.locator(".document").count() == 3
    assert page.locator("svg.map").count() == 2
    for part in ("#answer", ".documents", ".doubt", "svg.map >> nth=1"):
        box = page.locator(part).first.bounding_box()
        assert box["width"] > 100
        assert box["height"] > 10
    assert card(page).is_hidden()
    assert page.locator("#sources").is_hidden()
    shades = page.locator(".token").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(shades)) == 8
    bars = [page.locator(f"rect.{name}").first.bounding_box()["width"] for name in ("coarse", "fine")]
    assert bars[0] / bars[1] == pytest.approx(0.75, abs=0.02)


def test_pointing_at_a_token_shows_the_alternatives_of_both_branches(show):
    page = show()
    page.locator(".token", has_text="mill").hover()
    text = card(page).inner_text()
    for words in (
        "␣mill",
        "faithful branch",
        "50 %",
        "faithful1",
        "20 %",
        "unfaithful branch",
        "␣unfaithful1",
        "62 %",
    ):
        assert words in text
    page.locator(".token", has_text="Ada's").hover()
    assert "faithful3" in card(page).inner_text()
    assert "faithful1" not in card(page).inner_text()
    page.locator("h1").hover()
    assert card(page).is_hidden()


def test_clicking_a_sentence_lights_up_what_its_heads_looked_at(show):
    page = show()
    first, second = page.locator(".sentence").all()
    first.click()
    assert lit(page) == {"p1": "40 %", "p0": "10 %"}
    assert first.get_attribute("aria-pressed") == "true"
    strong, weak = (
        page.locator(f"#{id}").evaluate("one => getComputedStyle(one).backgroundColor") for id in ("p1", "p0")
    )
    assert strong != weak
    assert strong == "rgb({}, {}, {})".format(*(int(LIGHT.looked[i : i + 2], 16) for i in (1, 3, 5)))
    listed = page.locator("#sources li").all_inner_texts()
    assert [re.sub(r"\s+", " ", text) for text in listed] == [
        "40 % Ada built it in 1921. Mill",
        "10 % Mill (heading)",
    ]
    second.click()
    assert lit(page) == {"p4": "30 %"}
    assert first.get_attribute("aria-pressed") == "false"
    second.click()
    assert lit(page) == {}
    assert page.locator("#sources").is_hidden()


def test_a_closed_document_opens_when_it_lights_up_and_its_link_leads_there(show):
    page = show(make_answer([*DOCUMENTS[:2], Document("Line.\n" * 300 + "Ada.", id="b", kept=True)]))
    page.locator(".document summary").first.click()
    assert page.locator("#p1").is_hidden()
    page.locator(".sentence").first.click()
    assert page.locator("#p1").is_visible()
    page.mouse.wheel(0, 4000)
    page.locator("#sources a").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#p1").evaluate(
        "one => document.activeElement === one && one.getBoundingClientRect().top < innerHeight"
    )


def test_all_of_it_works_by_keyboard(show):
    page = show()
    page.keyboard.press("Tab")
    focused = page.locator(".sentence:focus-visible")
    assert focused.inner_text() == "The mill is Ada's."
    assert "faithful0" in card(page).inner_text()
    page.keyboard.press("ArrowRight")
    assert "faithful1" in card(page).inner_text()
    page.keyboard.press("Enter")
    assert lit(page) == {"p1": "40 %", "p0": "10 %"}
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert focused.inner_text().strip() == "She built it."
    assert "faithful5" in card(page).inner_text()
    page.keyboard.press("ArrowLeft")
    assert focused.inner_text() == "The mill is Ada's."
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert lit(page) == {"p4": "30 %"}
    page.keyboard.press("Escape")
    assert card(page).is_hidden()
    assert lit(page) == {"p4": "30 %"}
    page.keyboard.press("Escape")
    assert lit(page) == {}
    page.keyboard.press("Tab")
    assert page.locator("summary:focus-visible").count() == 1
    page.keyboard.press("Enter")
    assert page.locator(".document details").first.get_attribute("open") is None


def test_a_finger_goes_from_word_to_word(show):
    page = show(viewport=PHONE, has_touch=True, is_mobile=True)
    first, second = page.locator(".token").all()[:2]
    first.tap()
    assert "faithful0" in card(page).inner_text()
    assert lit(page) == {"p1": "40 %", "p0": "10 %"}
    second.tap()
    assert "faithful1" in card(page).inner_text()
    assert len(lit(page)) == 2
    second.tap()
    assert lit(page) == {}
    card(page).get_by_role("button", name="close").tap()
    assert card(page).is_hidden()


def test_the_card_does_not_lie_on_its_word(show):
    page = show(
        make_answer(question="Why? " * 80), viewport={"width": 390, "height": 600}, has_touch=True, is_mobile=True
    )
    word = page.locator(".token").first
    word.evaluate("one => scrollTo(0, one.getBoundingClientRect().top + scrollY - innerHeight + 60)")
    before = word.bounding_box()
    page.touchscreen.tap(before["x"] + 3, before["y"] + 5)
    after, shown = word.bounding_box(), card(page).bounding_box()
    assert before["y"] > shown["y"]
    assert 0 <= after["y"] < after["y"] + after["height"] <= shown["y"]


def overlap(one, other):
    """Whether two boxes share more than an edge."""
    across = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
    down = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
    return across > 0.5 and down > 0.5


def long_answer(words, **changes):
    return make_answer(tokens=[" The", " mill", " is", " Ada's", ".", *[" again"] * words], **changes)


@pytest.mark.parametrize(
    ("viewport", "question", "words"),
    [
        (WIDE, "Who?", 60),  # two columns, room below
        (WIDE, "Who?", 900),  # the answer scrolls by itself
        ({"width": 900, "height": 800}, "Who?", 60),  # one column
        ({"width": 900, "height": 800}, "Why? " * 260, 60),  # no room below: above
    ],
)
def test_the_card_hides_no_line_of_the_answer(show, viewport, question, words):
    page = show(long_answer(words, question=question), viewport=viewport)
    answer, tokens = page.locator("#answer"), page.locator(".token")
    answer.evaluate("one => scrollTo(0, Math.max(0, one.getBoundingClientRect().bottom + scrollY - innerHeight + 30))")
    for place in (0, 7, 40):
        tokens.nth(place).hover()
        assert f"faithful{place}" in card(page).inner_text()
        shown, text = card(page).bounding_box(), answer.bounding_box()
        assert not overlap(shown, text)
        assert 0 <= shown["y"] < shown["y"] + shown["height"] <= viewport["height"]
    above = shown["y"] < text["y"]
    assert above == (len(question) > 99)


@pytest.mark.parametrize("place", [0.2, 0.8])
def test_where_the_answer_fills_the_window_the_card_keeps_away_from_its_word(show, place):
    viewport = {"width": 1280, "height": 640}
    page = show(long_answer(1200), viewport=viewport)
    word = page.locator(".token").nth(700)
    word.evaluate(f"one => scrollTo(0, one.getBoundingClientRect().top + scrollY - innerHeight * {place})")
    word.hover()
    shown, line = card(page).bounding_box(), word.bounding_box()
    around = {**line, "y": line["y"] - line["height"], "height": 3 * line["height"]}
    assert not overlap(shown, around)
    assert 0 <= shown["y"] < shown["y"] + shown["height"] <= viewport["height"]
    assert (shown["y"] > line["y"]) == (place < 0.5)


def test_printed_it_keeps_its_shades_on_white(show):
    page = show(color_scheme="dark")
    page.locator(".sentence").first.click()
    page.emulate_media(media="print", color_scheme="dark")
    for part in (".token", ".ramp i", ".key.coarse", ".passage.lit", "#sources .figure"):
        assert page.locator(part).first.evaluate("one => getComputedStyle(one).printColorAdjust") == "exact", part
    assert card(page).is_hidden()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb({}, {}, {})".format(
        *(int(LIGHT.text[i : i + 2], 16) for i in (1, 3, 5))
    )


def test_an_empty_answer_opens(show):
    answer = make_answer()
    answer.text, answer.tokens = "", []
    answer.explanation.sentences.clear()
    assert "The model wrote nothing." in show(answer).locator("main").inner_text()


@pytest.mark.parametrize("width", [320, 390, 800])
def test_nothing_is_wider_than_a_phone(show, width):
    long = Document(
        "nobreak" * 200 + ". Ada. " + "x " * 50, id="i" * 300, title="T" * 300, source="/".join("path" * 60)
    )
    long.kept, long.coarse_score, long.fine_score = True, 1.0, 2.0
    answer = make_answer([long, *DOCUMENTS], ["W" * 200, *make_answer().text.split(" ")], "Why" * 200)
    page = show(answer, viewport={"width": width, "height": 700})
    page.locator(".settings summary").click()
    page.locator(".token").first.click(position={"x": 3, "y": 5})
    assert card(page).is_visible()
    assert lit(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.mouse.wheel(2000, 0)
    assert page.evaluate("scrollX") == 0
    box = card(page).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


@pytest.mark.parametrize(("scheme", "theme"), [("light", LIGHT), ("dark", DARK)])
def test_it_follows_the_colour_scheme(show, scheme, theme):
    page = show(color_scheme=scheme)
    back, text = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    for found, colour in ((back, theme.back), (text, theme.text)):
        assert [int(part) for part in re.findall(r"\d+", found)] == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def test_without_javascript_all_is_there_to_read(show):
    page = show(java_script_enabled=False)
    assert page.locator("noscript").is_visible()
    assert page.locator("#answer").inner_text() == "The mill is Ada's. She built it."
    assert page.locator(".document .text").first.is_visible()


# --- what hostile texts cannot do -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_texts_run_nothing(show, attack):
    page = show(make_answer(text=attack))
    for sentence in page.locator(".sentence").all():
        sentence.locator(".token").first.click()
    for _ in page.locator(".token").all():
        page.keyboard.press("ArrowRight")
    assert attack in card(page).inner_text().replace("␣", " ")
    page.wait_for_timeout(100)
    assert page.evaluate("window.__pwned") is None
    assert page.locator("img, iframe, script:not([id]):not(:last-of-type), svg[onload]").count() == 0
    assert page.locator("h1").inner_text() == f"q {attack}"
    for text in page.locator(".document.kept .text").all():
        assert text.inner_text() == f"{attack} Ada built it. {attack}"


def test_hostile_texts_in_the_file_that_the_command_writes(run, model_options, show, tmp_path):
    """From the command line to the browser: nothing in between is a stand-in but the model's size."""
    documents, path = tmp_path / "documents.jsonl", tmp_path / "answer.html"
    rows = [
        {
            "id": f"{number}{attack}",
            "title": attack,
            "text": f"{attack} The lighthouse was first lit in 1868. {attack}",
        }
        for number, attack in enumerate(ATTACKS[:3])
    ]
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["generate", f"What was lit? {ATTACKS[0]}", "-d", documents, "--max-new-tokens", 12, "--report", path]
    code, out, _ = run(*asked, *model_options)
    assert code == 0
    page = show(source=path)
    assert page.locator("#answer").inner_text().split() == out.split("\n\n")[0].split()
    page.locator(".sentence").first.click()
    assert page.locator(".lit").count() >= 1
    assert page.locator("#sources li").count() >= 1
    assert ATTACKS[0] in page.locator(".documents").inner_text()
    page.wait_for_timeout(100)
    assert page.evaluate("window.__pwned") is None


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS[:6] if "autofocus" not in attack])
def test_the_policy_stops_what_got_past_the_escaping(show, attack):
    source = render(attack)
    page = show(source=source, strict=False)
    page.wait_for_timeout(100)
    assert page.evaluate("window.__pwned") is None
    page.locator(".sentence .token").first.dispatch_event("click")  # attacks may cover it
    assert lit(page)  # the page's own script runs
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    page = show(source=bare, strict=False)
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.wait_for_timeout(100)
    assert page.evaluate("window.__pwned") == 1  # and without the policy the attack would, too


def render(attack):
    """A page in which the attack stands unescaped."""
    from faithgen.report import render_report

    whole = render_report(make_answer(), **head_sets())
    assert whole.count("<main>") == 1
    return whole.replace("<main>", f"<main>{attack}")


def test_the_policy_lets_nothing_out(show):
    page = show(strict=False)
    tried = page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", event => refused.push(event.effectiveDirective));
            await fetch("https://example.org/?leak").catch(() => 0);
            const image = document.createElement("img");
            document.body.append(image);
            image.src = "https://example.org/?leak";
            try { document.body.innerHTML = "<p>"; } catch { refused.push("innerHTML"); }
            await new Promise(done => setTimeout(done, 100));
            return refused;
        }"""
    )
    assert {"connect-src", "img-src", "innerHTML"} <= set(tried)
