"""Sampling from an OpenAI-compatible server (vLLM, SGLang, llama.cpp, ...) that runs a masked checkpoint."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException, InvalidURL
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.training.filters import Sample

_RETRIED = (408, 409, 429, 500, 502, 503, 504)


@dataclass
class EndpointSampler:
    """Samples answers by `POST {url}/completions`, prompts given as token ids: the server sees the very prompt of training.

    Args:
        url (`str`): base address with the version, e.g. `"http://localhost:8000/v1"`.
        model (`str`, *optional*): name of the served model; the first of `GET {url}/models` if not given.
        temperature (`float`), top_p (`float`): as the server takes them.
        max_new_tokens (`int`): most tokens of an answer.
        concurrency (`int`, *optional*, defaults to 16): requests under way at a time.
        timeout (`float`, *optional*, defaults to 600): seconds for one request.
        retries (`int`, *optional*, defaults to 4): further tries after a busy or unreachable server, 1, 2, 4, ... s apart.

    The key is read from the environment variable `OPENAI_API_KEY`, where it is set.
    """

    url: str
    model: str | None = None
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 128
    concurrency: int = 16
    timeout: float = 600.0
    retries: int = 4
    pause: float = field(default=1.0, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise FaithgenError(f"endpoint {self.url!r} is no address; give one like http://localhost:8000/v1")
        self.url = self.url.rstrip("/")

    def served_model(self) -> str:
        """Name of the model that is asked.

        Raises:
            FaithgenError: If the server cannot be reached or serves none.
        """
        if self.model is None:
            reply = self._call("models", retries=0)
            try:
                served = reply["data"]
                self.model = str(served[0]["id"]) if served else None
            except (KeyError, IndexError, TypeError) as error:
                raise FaithgenError(
                    f"endpoint {self.url!r} did not answer with a list of models; is it OpenAI-compatible?"
                ) from error
            if self.model is None:
                raise FaithgenError(f"endpoint {self.url!r} serves no model; start it with one")
        return self.model

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Sample]:
        """Sample one answer a prompt, in order.

        Raises:
            FaithgenError: If the server cannot be reached, refuses a request, or answers with something else.
        """
        self.served_model()
        with ThreadPoolExecutor(max(1, min(self.concurrency, len(prompts)))) as pool:
            return list(pool.map(self._sample, prompts, seeds))

    def _sample(self, prompt: list[int], seed: int) -> Sample:
        request = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": seed % 2**31,
            "n": 1,
        }
        reply = self._call("completions", request)
        try:
            choice = reply["choices"][0]
            return Sample(choice["text"].strip(), choice.get("finish_reason") == "stop")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise FaithgenError(
                f"endpoint {self.url!r} did not answer with a completion; is it OpenAI-compatible?"
            ) from error

    def _call(self, path: str, body: dict[str, Any] | None = None, retries: int | None = None) -> Any:
        retries = self.retries if retries is None else retries
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, headers)
        for attempt in range(retries + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                said = " ".join(_start_of(error).split())
                if error.code not in _RETRIED or attempt == retries:
                    raise FaithgenError(
                        f"endpoint {self.url!r} refused the request ({error.code}: {said[:200]})"
                    ) from error
            except (OSError, ValueError, RecursionError, HTTPException) as error:
                lasting = isinstance(error, ValueError | RecursionError | InvalidURL)
                if lasting or attempt == retries:
                    reason = getattr(error, "reason", None) or error
                    raise FaithgenError(
                        f"endpoint {self.url!r} cannot be used ({reason}); is the server up?"
                    ) from error
            time.sleep(self.pause * 2**attempt)
        raise AssertionError("unreachable")


def _start_of(error: urllib.error.HTTPError) -> str:
    """What a server said with its refusal, as far as it came."""
    try:
        return error.read(500).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
