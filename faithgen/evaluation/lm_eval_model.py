"""faithgen as a model of lm-eval (EleutherAI's harness): its tasks and numbers, our decoding.

This module imports lm-eval; import it only where that is wanted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from faithgen.decoding.engine import PairPrompt
from faithgen.decoding.sampling import SamplingConfig
from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.continuations import EndingPrompt, score_endings
from faithgen.evaluation.methods import Answerer, Method, get_method
from faithgen.evaluation.prompts import decode_text, masked_heads
from faithgen.generator import FaithfulGenerator
from faithgen.prompting import FAITHFUL, UNFAITHFUL

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise MissingExtraError("running lm-eval tasks", "lm-eval") from error

# Around text that is data, so that no special token comes out of it when the rendered chat template is tokenised.
_OPEN, _CLOSE = "\ue000", "\ue001"
_DATA = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)

PASSAGE_FIELDS = ("passages", "context", "passage", "paragraph")
"""Fields of a task's rows that may hold what the `context` contrast leaves out of the prompt; the first that is there."""


class FaithgenLM(LM):
    """A generator with one of our contrasts, behind lm-eval's interface.

    The request's text is the faithful branch. The unfaithful one is the same text with retrieval heads masked (`heads`,
    `decore`), with `[unfaithful]` in the place of `[faithful]` (`rhio`; only with a chat template), or without the
    passages of the task's row (`context`, `adacad`). Text of a request is data: it holds no special tokens.

    Args:
        generator ([`FaithfulGenerator`]): model and heads.
        method (`str` or [`Method`], *optional*, defaults to `"base"`):
            One that neither filters nor steers: an lm-eval request is one text without documents.
        batch_size (`int`, *optional*, defaults to 4): requests decoded together.
        max_new_tokens (`int`, *optional*, defaults to 256): where a task does not say.
        progress (`Callable[[int, int], None]`, *optional*): called with (done, total) of each kind of requests.

    Raises:
        FaithgenError: If the method cannot be used, or the model lacks its control tokens.
    """

    def __init__(
        self,
        generator: FaithfulGenerator,
        method: str | Method = "base",
        *,
        batch_size: int = 4,
        max_new_tokens: int = 256,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        super().__init__()
        chosen = get_method(method) if isinstance(method, str) else method
        if chosen.selects:
            raise FaithgenError(
                f"{chosen.name} chooses or steers among documents, which lm-eval's requests do not have; use base, heads, "
                "decore, context, adacad, control or rhio"
            )
        answerer = Answerer(generator)
        reason = answerer.unavailable(chosen)
        if reason:
            raise FaithgenError(f"{chosen.name} cannot run: {reason}")
        self.method, self.generator = chosen, answerer.variant(chosen)
        self.batch_size, self.max_new_tokens, self.progress = batch_size, max_new_tokens, progress
        self.contrast = self.generator.resolved(chosen.contrast)
        self.source = self.contrast.source
        self._device = self.generator.loaded.model.device

    @classmethod
    def from_pretrained(cls, model: str | None = None, *, method: str = "base", **options: Any) -> FaithgenLM:
        """Load a model; `options` are those of [`FaithfulGenerator.from_pretrained`] and `batch_size`, `max_new_tokens`."""
        own = {name: options.pop(name) for name in ("batch_size", "max_new_tokens") if name in options}
        return cls(FaithfulGenerator.from_pretrained(model, **options), method, **own)

    # --- what lm-eval asks for ----------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        return self.generator.loaded.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return self.generator.loaded.model_id.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokenizer.chat_template if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The rendered conversation, with the messages' text marked as data."""
        if self.tokenizer.chat_template is None:
            raise FaithgenError("the model has no chat template; leave out --chat-template")
        marked = [
            {**message, "content": f"{_OPEN}{_unmarked(message['content'])}{_CLOSE}"} for message in chat_history
        ]
        return self.tokenizer.apply_chat_template(
            marked,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            enable_thinking=False,
        )

    def get_model_info(self) -> dict[str, Any]:
        """For lm-eval's results: model, revision and method."""
        loaded = self.generator.loaded
        return {
            "faithgen_model": loaded.model_id,
            "faithgen_revision": loaded.revision,
            "faithgen_method": self.method.name,
            "faithgen_contrast": self.source,
            "faithgen_alpha": self.contrast.alpha if self.source != "none" else None,
        }

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, under the combined distribution."""
        prompts: list[EndingPrompt] = []
        for request in requests:
            context, continuation = request.args[:2]
            kept = context.rstrip()
            if kept and not context.endswith(_CLOSE):  # blanks belong to the continuation's first token
                context, continuation = kept, context[len(kept) :] + continuation
            ending = self.generator.builder.data_ids(_unmarked(continuation))
            prompts.append(self._prompt(request, context, len(ending), [ending]))
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for part in self._parts(prompts, lambda i: -len(prompts[i].faithful)):
            scored = score_endings(
                self.generator.loaded.model,
                [prompts[i] for i in part],
                self.contrast,
                masked_heads=masked_heads(self.generator, self.contrast),
                batch_size=self.batch_size,
            )
            for i, (score,) in zip(part, scored, strict=True):
                found[i] = (score.logprob, score.greedy)
                self.cache_hook.add_partial("loglikelihood", requests[i].args, found[i])
        return found

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Not offered: perplexity of running text has no documents to be faithful to.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "faithgen scores continuations and generates answers; perplexity tasks (loglikelihood_rolling) have no context "
            "to be faithful to, so run them with lm-eval's own hf model"
        )

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Generated text of each request, up to its stop strings."""
        settings = [_generation(request.args[1], self.max_new_tokens) for request in requests]
        prompts: list[EndingPrompt] = []
        for request, one in zip(requests, settings, strict=True):
            prompts.append(self._prompt(request, request.args[0], one["max_new_tokens"], []))
        texts = [""] * len(requests)
        # only requests of one length and one way of sampling are decoded together
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for i, one in enumerate(settings):
            kinds.setdefault((one["max_new_tokens"], one["sampling"]), []).append(i)
        done = 0
        for (length, sampling), places in kinds.items():
            places.sort(key=lambda i: -len(prompts[i].faithful))
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                decoded = decode_text(
                    self.generator,
                    [PairPrompt(prompts[i].faithful, prompts[i].unfaithful) for i in part],
                    self.contrast,
                    sampling=sampling,
                    max_new_tokens=length,
                    stop=[settings[i]["until"] for i in part],
                )
                for i, found in zip(part, decoded, strict=True):
                    texts[i] = found.text
                    self.cache_hook.add_partial("generate_until", requests[i].args, found.text)
                done += len(part)
                self.progress(done, len(requests))
        return texts

    # --- prompts ------------------------------------------------------------------------------------------------------

    def _prompt(self, request: Any, context: str, reserve: int, endings: list[list[int]]) -> EndingPrompt:
        """Both branches of a request, cut on the left to leave room in the window."""
        trained = self.generator.builder.has_control_tokens
        faithful = self._ids(context, FAITHFUL if trained else None, reserve)
        other = None
        if self.source == "control":
            other = self._ids(context, UNFAITHFUL, reserve)
        elif self.source == "context":
            other = self._ids(without_passages(context, request.doc, request.task_name), None, reserve)
        elif self.source == "heads":
            other = faithful
        return EndingPrompt(faithful, endings, other)

    def _ids(self, context: str, control: str | None, reserve: int) -> list[int]:
        """Token ids of a text; what a chat template put around the data may become special tokens, the data never."""
        from faithgen import hf

        builder, tokenizer = self.generator.builder, self.tokenizer
        pieces = _DATA.split(context)
        ids: list[int] = []
        if len(pieces) == 1:
            if control is not None:
                raise FaithgenError("a control token has no place in a bare text; add --chat-template")
            opening = tokenizer("", verbose=False)["input_ids"][:1]
            ids = [*opening, *builder.data_ids(context)]
        for number, piece in enumerate(pieces if len(pieces) > 1 else []):
            if number % 2:
                ids += builder.data_ids(piece)
                if control is not None and number == len(pieces) - 2:
                    ids.append(builder.control_id(control))
            elif piece:
                ids += tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        room = hf.context_window(self.generator.loaded.model) - max(0, reserve)
        if room < 1:
            raise FaithgenError(f"the window has no room for {reserve} new tokens; lower the task's max_gen_toks")
        if not ids:
            ends = sorted(hf.end_tokens(self.generator.loaded.model, tokenizer))
            ids = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else ends[0]]
        return ids[-room:]

    def _parts(self, items: Sequence[Any], key: Callable[[int], int]) -> Iterator[list[int]]:
        order = sorted(range(len(items)), key=key)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]
            self.progress(min(start + self.batch_size, len(order)), len(order))


def without_passages(context: str, doc: Mapping[str, Any], task: str | None) -> str:
    """A request's text without the passages of its row.

    Raises:
        FaithgenError: If the row shows none, or they are not in the text as they are.
    """
    for name in PASSAGE_FIELDS:
        value = doc.get(name) if isinstance(doc, Mapping) else None
        passages = [value] if isinstance(value, str) else value
        if passages and all(isinstance(passage, str) for passage in passages):
            text = context
            for passage in sorted(filter(None, map(_unmarked, passages)), key=len, reverse=True):
                text = text.replace(passage, "")
            if text != context:
                return re.sub(r"\n{3,}", "\n\n", text)
    raise FaithgenError(
        f"task {task or '(unnamed)'} has no passages that could be left out of its prompt; use heads or decore for it"
    )


def register() -> None:
    """Make `faithgen` a model name of lm-eval in this process: `lm_eval.simple_evaluate(model="faithgen", ...)`."""
    from lm_eval.api.registry import model_registry

    model_registry.register("faithgen", target="faithgen.evaluation.lm_eval_model:FaithgenByName")


class FaithgenByName(FaithgenLM):
    """[`FaithgenLM`] made from lm-eval's `model_args`: `model=...,method=heads@0.5,dtype=...`."""

    def __init__(
        self,
        model: str | None = None,
        method: str = "base",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **load_arguments: Any,
    ):
        if device is not None:
            load_arguments["device"] = device
        generator = FaithfulGenerator.from_pretrained(model, **load_arguments)
        size = str(batch_size)
        super().__init__(generator, method, batch_size=int(size) if size.isdigit() else 4)  # "auto" is not offered


def _generation(given: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """lm-eval's generation arguments as ours."""
    until = given.get("until") or []
    until = [until] if isinstance(until, str) else list(until)
    lengths = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    length = next((int(given[name]) for name in lengths if given.get(name) is not None), longest)
    temperature = float(given.get("temperature") or 0.0)
    if given.get("do_sample") is False or not math.isfinite(temperature):
        temperature = 0.0
    elif given.get("do_sample") and not temperature:
        temperature = 1.0
    sampling = SamplingConfig(temperature, float(given.get("top_p") or 1.0))
    return {"until": [text for text in until if text], "max_new_tokens": max(1, length), "sampling": sampling}


def _unmarked(text: str) -> str:
    return text.replace(_OPEN, "").replace(_CLOSE, "")
