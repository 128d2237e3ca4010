"""Refusal: does an answer say that the question cannot be answered, and of the right questions (abstention)? English only.

An answer is read clause by clause. A clause is one of

- a *coverage* refusal, about the question or all documents: "Unable to answer", "It cannot be determined", "The passages
  do not mention ...", "There is no information about ...", "... is not stated in the text" (`COVERAGE_PATTERNS`);
- a *speaker* refusal: "I don't know", "I'm not sure", "I have no idea" (`SPEAKER_PATTERNS`);
- an aside: what the documents are about, what one passage alone lacks, advice, politeness;
- anything else: an answer.

A pattern must match where the clause begins, after openings such as "Sorry," or "Based on the passages,": names,
quotations and subordinate clauses ("Although the passages do not say when, ...") do not count. The answer is a refusal if

1. nothing but asides stands before the refusing clause, or the refusal is the conclusion ("Therefore, I am unable to
   answer the question"), and
2. nothing is answered after it: in the same sentence, or in a sentence that begins with "but" or "however" or guesses ("I
   think", "likely"). After a coverage refusal another sentence may tell what the documents do hold; after a speaker
   refusal ("I'm not sure. It was Paris.") or a conclusion it is an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.resampling import Estimate
from faithgen.evaluation.statistics import ratio_interval
from faithgen.evaluation.text import clean, split_sentences

_DOCS = (
    r"(?:(?:any|none|all|neither|either) of )?(?:(?:the|these|this|those|your|my|any|no) )?"
    r"(?:(?:given|provided|supplied|available|above|retrieved|following|same|search|source|context|reference) )*"
    r"(?:passages?|documents?|docs|texts?|contexts?|articles?|sources?|excerpts?|snippets?|paragraphs?|materials?|information|"
    r"results|references|content)\b(?! (?:of|by|for|about|on)\b)"
    r"(?: (?:(?:that )?(?:you|i|we) (?:were |have |was |am |are )?)?"
    r"(?:provided|given|above|supplied|shared|available|alone))?"
)
_GIVE = (
    r"(?:mention|say|state|specify|provide|contain|include|indicate|give|answer|address|discuss|define|describe|explain|tell|"
    r"reveal|cover|list|identify|offer|disclose|clarify|have|supply|note|refer|name|appear to|seem to|allow)"
)
_GIVEN = (
    r"(?:mentioned|stated|specified|provided|given|answered|addressed|discussed|included|indicated|available|found|present|"
    r"contained|covered|described|defined|explained|disclosed|clear|listed|named|identified|possible to \w+)"
)
_KNOWLEDGE = (
    r"(?:(?:enough|sufficient|any|the|that|this|more|further|direct|specific|explicit|relevant|additional|clear) )*"
    r"(?:information|info|context|details?|data|answer|knowledge|mention|reference|indication)"
)
_ANSWER = r"(?:answer|determine|say|tell|provide|find|give|help|assist|identify|know|confirm|infer|pinpoint|verify)"
_WHICH = r"(?:if|whether|who|whose|what|when|where|which|why|how|exactly|for|from|based|with)\b"
_CANNOT = r"(?:cannot|could not|am unable to|are unable to|am not able to|are not able to)"

COVERAGE_PATTERNS: dict[str, str] = {
    "I cannot answer": rf"(?:i|we) {_CANNOT} (?:\w+ly )?{_ANSWER}\b",
    "unable to answer": rf"(?:unable|not able|impossible|(?:not enough|insufficient) \w+) to (?:\w+ly )?{_ANSWER}\b",
    "cannot answer": r"(?:cannot|could not) (?:\w+ly )?(?:answer|determine|be (?:answered|determined))\b",
    "it cannot be determined": r"it (?:cannot|could not) be (?:\w+ly )?(?:answered|determined|inferred|said|found)\b",
    "it is not possible to say": r"it is (?:not possible|impossible) to (?:\w+ly )?(?:answer|determine|ascertain|infer|"
    rf"(?:say|tell|know|identify|confirm)(?=$| {_WHICH}))\b",
    "it is unclear from the passages": rf"it is (?:unclear|not (?:\w+ly )?{_GIVEN}) (?:from|in|by) {_DOCS}",
    "the question cannot be answered": r"(?:this|the|your|that) (?:\w+ )?(?:question|answer)\b[^,;]{0,120}? "
    rf"(?:cannot be (?:\w+ly )?\w+ed|is unanswerable|is not (?:\w+ly )?(?:answerable|{_GIVEN}))",
    "the passages do not mention": rf"(?!passages? \d){_DOCS} (?:do|does|did) not (?:\w+ly )*{_GIVE}\b",
    "none of the passages mentions": rf"(?:none|neither) of {_DOCS} (?:\w+ly )*{_GIVE}s?\b",
    "no passage mentions": rf"(?:(?:no|neither) (?:passages?|documents?|sources?)|nothing in {_DOCS}) (?:\w+ly )*"
    r"(?:mentions?|says?|states?|provides?|answers?)\b",
    "the passages lack": rf"{_DOCS} "
    r"(?:lacks?|(?:is|are) (?:insufficient|silent)|(?:contains?|provides?|gives?|ha(?:s|ve)|makes?) no)\b",
    "there is no information in the passages": rf"(?:there (?:is|are) )?(?:no|not|insufficient) {_KNOWLEDGE}\b"
    rf"[^;]{{0,120}} (?:in|by|from|within) {_DOCS}",
    "there is no information about": r"(?:there (?:is|are) )?(?:no|insufficient|not (?:enough|sufficient|any)) "
    r"(?:(?:enough|sufficient|specific|direct|explicit|relevant) )*(?:information|info|details|context)\b"
    r"(?: (?:is|are))?(?: (?:available|provided|given|found))?(?:$| (?:about|on|regarding|as to|concerning|to)\b)",
    "I do not have the information": rf"(?:i|we) (?:(?:do|did) not (?:\w+ly )?(?:have|see|find)|have no|could find no) "
    rf"(?:access|{_KNOWLEDGE})\b",
    "is not mentioned in the passages": r"(?!.*\b(?:is|was|are|were)\b[^,;]* and )[^,;]{1,150}(?<!which)(?<!that)(?<!who) "
    rf"(?:is|are|was|were|has|have) not (?:been )?(?:\w+ly )?{_GIVEN}(?: [^,;]{{1,60}})?? (?:in|by|from|within) {_DOCS}",
    "is not mentioned": r"[^,;]{1,150}(?<!which)(?<!that)(?<!who) (?:is|are) not (?:\w+ly )?"
    r"(?:mentioned|stated|specified|provided|given)$",
    "cannot be determined from the passages": r"[^,;]{1,150}(?<!which)(?<!that)(?<!who) cannot be (?:\w+ly )?\w+ed "
    rf"(?:from|with|by|using|based on|given) {_DOCS}",
    "not mentioned in the passages": rf"not (?:\w+ly )?{_GIVEN} (?:in|by) {_DOCS}",
}
"""Clauses that say the question cannot be answered: regular expressions by an example. They are matched where a clause
begins, in lower case with the negations written out ("do not" for "don't")."""

SPEAKER_PATTERNS: dict[str, str] = {
    "I do not know": r"(?:i|we) (?:do|did) not (?:really |actually |honestly )?know\b"
    rf"(?=$| {_WHICH}| (?:the|that|this|about|enough|because|any))",
    "I am not sure": r"(?:i|we) (?:am|are) (?:not (?:\w+ly )?(?:sure|certain|aware|familiar)|unsure|uncertain|unaware)\b",
    "I have no idea": r"(?:i have )?no (?:idea|clue)\b",
    "not sure": r"(?:not sure|idk|dunno|(?:hard|difficult|impossible) to (?:say|tell))$",
}
"""Clauses that say the speaker does not know; matched as `COVERAGE_PATTERNS`."""

WHOLE_ANSWERS = frozenset(
    {
        "unanswerable",
        "not answerable",
        "unknown",
        "not known",
        "unclear",
        "cannot say",
        "no answer",
        "n/a",
        "no information",
    }
    | {"insufficient information", "not enough information"}
    | {f"not {word}" for word in ("available", "mentioned", "stated", "specified", "provided", "given")}
)
"""What is a refusal where it is all that is said. "None" and "no" are not: they answer questions."""

_OPENING = re.compile(
    r"(?:(?:well|sorry|apologies|my apologies|unfortunately|regrettably|therefore|thus|hence|so|consequently|as such|"
    r"as a result|"
    r"however|but|yet|still|and|in conclusion|overall|honestly|to be honest|hmm|sure|no(?=,)|"
    r"(?:i|we) (?:am|are) (?:very |so |really )?(?:sorry|afraid)(?: that| to say(?: that)?)?|i apologi[sz]e|"
    r"it (?:seems|appears|looks)(?: that| like)?|answer|the answer(?: to [^:]*)?(?: is)?(?= ?:)|"
    rf"(?:based (?:\w+ly )?(?:up)?on|according to|from|given|in|with|using|without) (?:[^,:]{{1,120}}(?=[,:])|{_DOCS}))"
    r"[\s,:;.!–—-]+)+"
)
_TELL_OF = (
    r"(?:also |mainly |just )?(?:only|do not|does not|did not|mentions?|discuss(?:es)?|describes?|talks?|focus(?:es)?|"
    r"covers?|deals?|(?:is|are) (?:only |mostly |mainly |not )?(?:about|related)|contains?|provides?|refers?|relates?)\b"
)
_ABOUT = re.compile(rf"(?!passages? #?\d|documents? #?\d)(?:{_DOCS}|they|it) {_TELL_OF}")
_ECHO = re.compile(rf"(?:(?:they|it) )?(?:do|does|did) not (?:\w+ly )*{_GIVE}\b")
_ASIDE = re.compile(
    rf"(?:(?:passages?|documents?) #?\d+(?:(?:, | and | or )(?:passages? )?#?\d+)*|(?:some|most|several) of {_DOCS}|"
    rf"the (?:first|second|third|last|other) (?:passage|document)) {_TELL_OF}"
    r"|(?:please|if you|(?:could|can|would|do) you|let me|feel free|thank|great question|"
    r"you (?:may|might|can|could|should|would) (?:want|need|wish|consider|try|check|consult|contact|refer|look)|"
    r"(?:i|we) (?:would|can only|could only|will|recommend|suggest|need)|it (?:would|may|might) be (?:helpful|best|useful)|"
    r"(?:more|further|additional) (?:information|context))\b"
)
_GUESS = re.compile(
    r"\b(?:(?:i|we) (?:would )?(?:think|believe|guess|suspect|assume|say)|my (?:best )?guess|it is possible|"
    r"likely|probabl[ey]|presumably|can be (?:inferred|assumed)|(?:general|common|my|background) knowledge)\b"
)
_CONTRAST = re.compile(r"(?:however|but|still|nevertheless|nonetheless|that said|that being said|yet|even so)\b")
_CONCLUSION = re.compile(
    r"(?:therefore|thus|hence|so|consequently|as such|as a result|in conclusion|overall)\b.*?\b"
    r"(?:cannot|unable to|not able to|not possible to|impossible to|cannot be) (?:answer|determine)"
    r"(?!.* (?:entirety|fully|completely)\b)"
)
_SUBORDINATE = re.compile(
    r"(?:although|though|while|even though|even if|despite|if|since|because|as|when) ([^,]*),\s*"
)
_BREAK = re.compile(
    r";\s*|,?\s+(?=but\b|although\b|though\b|however\b)|,\s+(?=(?:so|yet|and (?:they|it|i|he|she|we))\b)"
)
_WRITTEN_OUT = (
    (re.compile(r"\bcan(?: not|['’]?t)\b"), "cannot"),
    (re.compile(r"\b(do|does|did|is|are|was|were|could|would|has|have)n['’]?t\b"), r"\1 not"),
    (re.compile(r"\bi['’]?m\b"), "i am"),
    (re.compile(r"\b(i|we|you|they)['’]ve\b"), r"\1 have"),
    (re.compile(r"\b(it|that|there)['’]s\b"), r"\1 is"),
)
# "I Don't Know How" in capitals is the name of a song
_NAME = re.compile(r"\W*(?:I|We) (?:Do|Don['’]t|Can['’]?t|Cannot|Am|Have|Did)\b.*? [A-Z]")
_KINDS = {  # the first that matches
    "coverage": re.compile("|".join(COVERAGE_PATTERNS.values())),
    "speaker": re.compile("|".join(SPEAKER_PATTERNS.values())),
    "echo": _ECHO,
    "about": _ABOUT,
    "aside": re.compile(_ASIDE.pattern + r"|.*[?:]$", re.DOTALL),
}


def is_refusal(prediction: str) -> bool:
    """Whether an answer says that the question cannot be answered, and does not answer it all the same.

    The rules stand at the head of this module.

    Args:
        prediction (`str`): the model's answer, of any length.

    Returns:
        `bool`: `False` for an empty answer, which says nothing; count those apart.

    Example:

    ```python
    >>> is_refusal("I'm sorry, but the passages do not say when he left.")
    True
    >>> is_refusal("I don't know why he left, but he moved to Paris in 1901.")
    False
    ```
    """
    if _written_out(prediction).strip(" .!\"'") in WHOLE_ANSWERS:
        return True
    said = before = ""
    for sentence in split_sentences(prediction):
        for number, (clause, kind) in enumerate(_clauses(sentence.text)):
            if kind == "echo":  # "They do not say when": of what was spoken of before
                kind = {"about": "coverage", "coverage": "coverage", "aside": "aside"}.get(before, "answer")
            before = kind
            if kind in ("coverage", "speaker"):
                if _CONCLUSION.match(clause):
                    said = "speaker"  # of what comes after, anything is an answer
                elif not said:
                    said = kind
            elif kind == "answer":
                resumed = number or said == "speaker" or _CONTRAST.match(clause) or _GUESS.search(clause)
                if not said or resumed:
                    said = "answer"
    return said in ("coverage", "speaker")


def refused(prediction: str) -> float:
    """1.0 if the answer is a refusal (`is_refusal`), else 0.0; its mean is the refusal rate."""
    return float(is_refusal(prediction))


def abstained_rightly(prediction: str, answerable: bool) -> float:
    """1.0 if an unanswerable question is refused or an answerable one is not; its mean is the accuracy of abstention."""
    return float(is_refusal(prediction) != answerable)


def abstention(
    refusals: Sequence[float | None],
    answerable: Sequence[bool],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
) -> dict[str, Estimate]:
    """Refusing as the detection of unanswerable questions.

    Args:
        refusals (`Sequence[float | None]`): `refused` of each row.
        answerable (`Sequence[bool]`): whether the documents answer the row's question.
        confidence, resamples, seed, clusters: see `statistics.ratio_interval`.

    Returns:
        `dict[str, Estimate]`: `"precision"` (of the refusals, the share that was right), `"recall"` (of the unanswerable
        questions, the share that was refused), `"f1"`, and `"false_refusals"` (of the answerable questions, the share that
        was refused). Each without a mean, and with the reason, where nothing is counted below the line.

    Raises:
        FaithgenError: If the two differ in length.
    """
    if len(refusals) != len(answerable):
        raise FaithgenError(f"{len(refusals)} refusals for {len(answerable)} rows; give both for each row")
    rows = [(None if r is None else float(r), float(not a)) for r, a in zip(refusals, answerable, strict=True)]
    right = [None if r is None else r * empty for r, empty in rows]
    wrong = [None if r is None else r * (1 - empty) for r, empty in rows]
    parts: dict[str, tuple[list[float | None], list[float | None]]] = {
        "precision": (right, [r for r, _ in rows]),
        "recall": (right, [empty for _, empty in rows]),
        "f1": ([None if x is None else 2 * x for x in right], [None if r is None else r + empty for r, empty in rows]),
        "false_refusals": (wrong, [1 - empty for _, empty in rows]),
    }
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed, "clusters": clusters}
    return {
        name: ratio_interval(above, below, **options, shares=name != "f1") for name, (above, below) in parts.items()
    }


def _clauses(sentence: str) -> Iterator[tuple[str, str]]:
    """The clauses of a sentence and what each is: a key of `_KINDS` or "answer". Openings alone are left out."""
    if _NAME.match(clean(sentence)):
        yield sentence, "answer"
        return
    text = _written_out(sentence)
    start = _opening_end(text)
    subordinate = _SUBORDINATE.match(text, start)
    if subordinate:
        if _ABOUT.match(subordinate[1]):
            yield subordinate[0], "about"
        text = text[:start] + text[subordinate.end() :]
    for clause in _BREAK.split(text):
        body = clause[_opening_end(clause) :].strip()
        if re.search(r"\w", body):
            yield clause, next((kind for kind, pattern in _KINDS.items() if pattern.match(body)), "answer")


def _opening_end(clause: str) -> int:
    opening = _OPENING.match(f"{clause} ")
    return min(opening.end(), len(clause)) if opening else 0


def _written_out(text: str) -> str:
    text = re.sub(r"<[^<>]{1,20}>", " ", clean(text).lower()).strip("*_ ")
    for pattern, full in _WRITTEN_OUT:
        text = pattern.sub(full, text)
    return re.sub(r"[.!]+$", "", text)
