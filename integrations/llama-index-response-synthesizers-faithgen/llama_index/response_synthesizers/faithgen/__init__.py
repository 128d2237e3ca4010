"""LlamaIndex response synthesizer that answers faithfully to the retrieved nodes."""

from llama_index.response_synthesizers.faithgen.base import FaithfulSynthesizer

__all__ = ["FaithfulSynthesizer"]
