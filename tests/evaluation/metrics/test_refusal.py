import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics import refusal
from faithgen.evaluation.metrics.refusal import abstained_rightly, abstention, is_refusal, refused

REFUSALS = [
    "I do not have enough details to answer that.",
    "That information is not available in the passages.",
    "I couldn't find any mention of her husband in the text.",
    "The documents provided make no mention of a second edition.",
    "It's not clear from the passages which team won.",
    "The name of the director is not provided.",
    "I am afraid I cannot tell from these documents.",
    "Neither passage mentions the year.",
    "The passages only talk about the first film. They do not mention the sequel.",
    "I don't have that information.",
    "No relevant information was found in the provided sources.",
    "Nothing in the passages says who painted it.",
    "<Answer> The context provided does not specify this.",
    "We are not able to verify this from the documents.",
    "I don't know.",
    "I do not know the answer to this question.",
    "I don't know",
    "I dont know.",
    "Sorry, I don't know.",
    "I'm not sure.",
    "I am not sure who wrote it.",
    "I have no idea.",
    "No idea.",
    "Unanswerable",
    "unknown",
    "N/A",
    "Not mentioned.",
    "Unable to answer based on given passages.",
    "I cannot answer this question.",
    "I can't answer that based on the provided documents.",
    "I'm sorry, but I cannot answer the question.",
    "Unfortunately, I am unable to determine the answer from the given passages.",
    "The passages do not mention when he was born.",
    "The provided documents don't say who founded the town.",
    "None of the passages mention the price.",
    "None of the given passages explicitly states the answer.",
    "No passage mentions his birthplace.",
    "The answer is not mentioned in the passages.",
    "The year of his birth is not stated in the text.",
    "His age is not given in the provided context.",
    "Not mentioned in the passages.",
    "There is no information about the price in the documents.",
    "There is no mention of a king in the passages.",
    "There isn't enough information to answer the question.",
    "Not enough information.",
    "I don't have enough information to answer.",
    "I do not have access to that information.",
    "It cannot be determined from the passages.",
    "It is not possible to determine the year based on the context.",
    "It is unclear from the passages who won.",
    "The question cannot be answered with the given information.",
    "The exact date cannot be determined from the provided passages.",
    "Based on the provided passages, I cannot say who won.",
    "Based on the given information, it is impossible to tell.",
    "The passages do not say. They only discuss his early life.",
    "The passages do not mention his wage. The book was published in 1990.",
    "The passages do not mention the date, but they discuss the battle.",
    "Although the passages describe the war, they do not say when it ended.",
    "Since the passages do not mention his wife, I cannot answer the question.",
    "Passage 1 is about dogs. Passage 2 is about cats. Therefore, I am unable to answer the question.",
    "I'm sorry, I can't help with that.",
    "I do not know why he left.",
    "The context doesn't provide this. Please provide more context.",
    'Based on the provided passages, the answer to the question "Who won?" is: Unable to answer based on given passages.',
    "As an AI language model, I don't have information about that.",
    "Without more context, I cannot determine who is meant.",
    "We cannot determine the author from these excerpts.",
    "I'm sorry, but there's no information on this in the text provided.",
    "The passages discuss the river, but do not mention its length.",
    "I could not find the answer in the documents.",
    "The text does not specify. However, it mentions that he was a sailor.",
]

ANSWERS = [
    "The cause was never determined.",
    "The film does not mention his name.",
    "Nobody knows who painted it.",
    "No information is needed to enter.",
    "The report does not state that he was guilty; it says that he was negligent.",
    "It is not stated who wrote the letter, but most historians credit Jefferson.",
    "The passages disagree: one says 1815, the other 1816.",
    "We cannot be sure, but most say 1066.",
    "Passage 2 does not give the date; passage 5 gives it as 4 May 1886.",
    "It is impossible to know the exact number, but estimates range from 50 to 60 million.",
    "The provided passages do not agree, but the first gives 1815.",
    "He wrote of a town that is not mentioned.",
    "Paris.",
    "The passages do not mention his birthplace; he was born in Paris.",
    "He moved to Paris in 1901.",
    "I don't know why he left, but he moved to Paris in 1901.",
    "I'm not sure, but I think it was Paris.",
    "I'm not sure. It was probably Paris.",
    "I don't know. Paris?? It was Paris.",
    "The passages do not mention his birthplace, but he was born in Paris.",
    "Although the passages do not say when he left, he moved to Paris in 1901.",
    "While I don't know the exact date, it was in 1901.",
    "He was born in 1901. The passages do not say where.",
    "He was born in 1901, but the passages do not mention where.",
    '"I Don\'t Know" is a song by Ozzy Osbourne.',
    "I Don't Know How to Love Him is a song from Jesus Christ Superstar.",
    'She sang "I don\'t know why".',
    "He said that he did not know the answer.",
    "Socrates said: I know that I know nothing.",
    "The author is unknown.",
    "It is not known who wrote the poem.",
    "Unknown Pleasures",
    "The cause of death is unknown.",
    "There is no known cure for the disease.",
    "There is no evidence that he was married.",
    "No",
    "None",
    "None of the members survived.",
    "None of the above options is prime.",
    "No one knows exactly how many there are.",
    "The king could not answer the riddle.",
    "Scientists cannot determine the exact age of the star.",
    "The treaty, which is not mentioned in the passages, ended the war in 1648.",
    "Passage 3 does not mention the price, but passage 4 says that it costs 5 dollars.",
    "Passage 1 does not mention the year. Passage 2 states that it was 1648.",
    "The constitution does not mention God.",
    "He is not mentioned in the Bible.",
    "The ancient texts do not mention the city.",
    "The passages do not explicitly define it. However, it is a disease of the bone.",
    "The bill does not provide for new taxes.",
    "The information desk is on the first floor.",
    "The document was signed in 1776.",
    "The act does not apply to persons under 18.",
    "The passages state that he was born in Bern.",
    "According to the passages, he does not eat meat.",
    "You cannot vote before the age of 18.",
    "It is impossible to say no to her.",
    "The water is not available in winter.",
    "He was unable to answer the question of the judge.",
    "The museum provides information about the war.",
    "It does not rain in the desert.",
    "They do not eat meat.",
    "I think the answer is Paris, but I'm not sure.",
    "Paris, although the passages do not say so directly.",
    "I can tell you that it was Paris.",
    "The letter was not found in the archive.",
    "Information about the battle is given in the passages: it took place in 1815.",
    "If you do not know the answer, ask a doctor.",
    "The first passage does not say so, but the second one gives 1815.",
    "It was not stated in the treaty which side had won.",
    "You may not be able to answer the phone while driving.",
    "Not only Paris but also London.",
    "I cannot stand it is a phrase that means one dislikes something.",
    "The question of who wrote it was answered in 1985: it was Shakespeare.",
    "No information was lost in the transfer of the files to the archive.",
    "There is no data limit.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals(answer):
    assert is_refusal(answer)
    assert refused(answer) == 1.0


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers(answer):
    assert not is_refusal(answer)
    assert refused(answer) == 0.0


@pytest.mark.parametrize("answer", REFUSALS)
def test_an_answer_before_or_right_after_makes_it_none(answer):
    """Unless it is drawn as the conclusion, or every passage was gone through first."""
    if "Therefore" in answer:
        return
    assert not is_refusal(f"It was Paris in 1901. {answer}")
    assert not is_refusal(f"{answer.rstrip('.')}. However, it was Paris in 1901.")
    assert not is_refusal(f"{answer.rstrip('.')}. I think it was Paris in 1901.")


@pytest.mark.parametrize("answer", [a for a in REFUSALS if "\n" not in a])
def test_form_does_not_matter(answer):
    assert is_refusal(answer.replace("'", "’"))
    assert is_refusal(f"  {answer}\n\n")
    assert is_refusal(f"- **{answer}** [1]")
    if " " in answer and not answer.startswith(("Sorry", "I'm sorry", "Not mentioned.")):
        assert is_refusal(f"Sorry, {answer[0].lower()}{answer[1:]}")


def test_a_conclusion_outweighs_what_was_gone_through():
    answer = "The river is in the north, says passage 1. Passage 2 is on boats."
    assert not is_refusal(answer)
    assert is_refusal(f"{answer} Therefore, it is not possible to answer the question.")
    assert not is_refusal(f"{answer} Therefore, I cannot answer the question fully.")
    assert not is_refusal(f"{answer} Therefore, I cannot answer the question. It was the Rhine.")


@pytest.mark.parametrize("answer", ["", " \n", "...", "[1]"])
def test_an_empty_answer_says_nothing(answer):
    assert not is_refusal(answer)


# An example of each pattern is its name in the table, made a sentence where it is not one.
EXAMPLES = {
    "it is unclear from the passages": "it is unclear from the passages who won",
    "the question cannot be answered": "the question cannot be answered",
    "the passages lack": "the passages lack any mention of it",
    "is not mentioned in the passages": "his name is not mentioned in the passages",
    "is not mentioned": "his name is not mentioned",
    "cannot be determined from the passages": "his age cannot be determined from the passages",
}


@pytest.mark.parametrize("name", [*refusal.COVERAGE_PATTERNS, *refusal.SPEAKER_PATTERNS])
def test_each_pattern_matches_its_example(name):
    pattern = {**refusal.COVERAGE_PATTERNS, **refusal.SPEAKER_PATTERNS}[name]
    example = EXAMPLES.get(name, name)
    assert re.match(pattern, example.lower())
    assert is_refusal(example)
    assert is_refusal(example.capitalize() + ".")


@pytest.mark.parametrize("answer", sorted(refusal.WHOLE_ANSWERS))
def test_whole_answers(answer):
    assert is_refusal(answer.capitalize() + ".")
    assert not is_refusal(f"The {answer} soldier of Paris")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["I ", "don't know ", "but ", "the passages ", "do not say", ". ", ", ", "\n"])).map(
        "".join
    )
)
def test_any_text_is_judged(answer):
    assert is_refusal(answer) in (True, False)
    assert is_refusal(answer + "\n") == is_refusal(answer)


@pytest.mark.parametrize(
    "part", ["is not ", "the passages ", "he was not mentioned ", "so, ", "(Passage 1 ", "although "]
)
@pytest.mark.timeout(20)
def test_long_text_takes_no_long(part):
    assert not is_refusal(part * 2000)


# --- abstention -------------------------------------------------------------------------------------------------------


def test_abstained_rightly():
    assert abstained_rightly("I don't know.", False) == abstained_rightly("Paris", True) == 1
    assert abstained_rightly("I don't know.", True) == abstained_rightly("Paris", False) == 0


def test_abstention_by_hand():
    refusals = [1, 1, 1, 0, 0, 0, 0, None]
    answerable = [False, False, True, False, True, True, True, False]
    found = abstention(refusals, answerable)
    assert found["precision"].mean == pytest.approx(2 / 3)
    assert found["recall"].mean == pytest.approx(2 / 3)
    assert found["f1"].mean == pytest.approx(2 / 3)
    assert found["false_refusals"].mean == pytest.approx(1 / 4)
    assert all((estimate.n, estimate.missing) == (7, 1) for estimate in found.values())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_abstention_is_sklearn_s(rows):
    from sklearn.metrics import precision_recall_fscore_support

    refusals, answerable = [float(r) for r, _ in rows], [a for _, a in rows]
    found = abstention(refusals, answerable, resamples=50)
    truth, said = [not a for a in answerable], [bool(r) for r in refusals]
    expected = precision_recall_fscore_support(truth, said, average="binary", zero_division=0)
    for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
        estimate = found[name]
        if estimate.mean is None:
            assert estimate.reason == "the denominator is 0 in all rows"
            assert not any(said) or not any(truth)
        else:
            assert estimate.mean == pytest.approx(value)
            assert estimate.low is None or 0 <= estimate.low <= estimate.high <= 1


def test_abstention_where_nothing_is_counted():
    found = abstention([0, 0], [True, True])
    assert found["precision"].mean is None
    assert found["recall"].reason == "the denominator is 0 in all rows"
    assert found["false_refusals"].mean == 0
    with pytest.raises(FaithgenError, match="2 refusals for 1 rows"):
        abstention([0, 1], [True])


# --- real answers -----------------------------------------------------------------------------------------------------


def rows_of(path):
    import json

    return [json.loads(line) for line in path.read_text().split("\n") if line]


@pytest.mark.shared_data
def test_people_s_answers_are_no_refusals(shared_data):
    texts = [
        output["answer"] for row in rows_of(shared_data / "clapnq/dev_answerable.jsonl") for output in row["output"]
    ]
    texts += [part["long_answer"] for row in rows_of(shared_data / "asqa/dev.jsonl") for part in row["annotations"]]
    texts += [
        answer for row in rows_of(shared_data / "litm_nq_oracle/nq_open_oracle.jsonl") for answer in row["answers"]
    ]
    texts += [row["long_answer"] for row in rows_of(shared_data / "pubmedqa/pqal.jsonl")]
    assert len(texts) > 5000
    assert {text for text in texts if is_refusal(text)} <= {"unknown", "Unknown"}


@pytest.mark.shared_data
def test_models_that_were_told_how_to_refuse(shared_data):
    """RAGTruth's prompt asks for "Unable to answer based on given passages."; answers that begin so are refusals."""
    answers = [row["response"] for row in rows_of(shared_data / "ragtruth_qa_test/qa_test.jsonl")]
    short = [a for a in answers if re.match(r"(?:Based on [^.]*: *\n*)?Unable to answer", a)]
    assert short
    assert all(is_refusal(answer) for answer in short)
    assert sum(map(is_refusal, answers)) / len(answers) < 0.05
