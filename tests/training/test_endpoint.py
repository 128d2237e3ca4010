import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from faithgen.errors import FaithgenError
from faithgen.training.endpoint import EndpointSampler


@pytest.fixture
def server():
    """A small OpenAI-compatible server: `handler(body)` gives (status, object); what it was asked is in `.asked`."""
    with running() as server:
        yield server


@contextlib.contextmanager
def running(name="masked-model"):
    """The same, for tests that need several."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(*self.server.models())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.asked.append((self.path, body, self.headers.get("Authorization")))
            self.answer(*self.server.handler(body))

        def answer(self, status, content):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            if self.server.announced:
                self.send_header("Content-Length", str(self.server.announced))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.announced = [], None
    server.models = lambda: (200, {"data": [{"id": name}]})
    server.handler = lambda body: (200, completion(" ".join(map(str, body["prompt"]))))
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def completion(text, reason="stop"):
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}


def test_prompts_go_as_token_ids_and_answers_come_in_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    sampler = EndpointSampler(server.url + "/", temperature=0.6, top_p=0.9, max_new_tokens=7, concurrency=3)
    prompts = [[number, number + 1] for number in range(10)]
    samples = sampler(prompts, [2**62 + number for number in range(10)])
    assert [sample.text for sample in samples] == [f"{number} {number + 1}" for number in range(10)]
    assert all(sample.finished for sample in samples)
    path, body, key = next(call for call in server.asked if call[1]["prompt"] == [3, 4])
    assert (path, key) == ("/v1/completions", "Bearer key")
    wanted = {"model": "masked-model", "max_tokens": 7, "temperature": 0.6, "top_p": 0.9, "seed": (2**62 + 3) % 2**31}
    assert wanted.items() <= body.items()


def test_an_answer_that_was_cut_is_not_finished(server):
    server.handler = lambda body: (200, completion("half an ans", "length"))
    assert not EndpointSampler(server.url)([[1]], [0])[0].finished


def test_a_busy_server_is_asked_again(server):
    left = [503, 429]

    def busy(body):
        return (left.pop(), {"error": "busy"}) if left else (200, completion("ok"))

    server.handler = busy
    assert EndpointSampler(server.url, pause=0.01)([[1]], [0])[0].text == "ok"
    assert len(server.asked) == 3


def test_what_a_server_does_wrong_is_said(server):
    sampler = EndpointSampler(server.url, retries=1, pause=0.01)
    for reply, message in (
        ((400, {"error": "prompt too long"}), "refused the request.*400.*prompt too long"),
        ((500, {}), "refused the request.*500"),
        ((200, {"choices": []}), "OpenAI-compatible"),
        ((200, []), "OpenAI-compatible"),
        ((200, completion(None)), "OpenAI-compatible"),
        ((200, b"[" * 100_000), "cannot be used"),
        ((200, b"<html>"), "cannot be used"),
    ):
        server.handler = lambda body, reply=reply: reply
        with pytest.raises(FaithgenError, match=message):
            sampler([[1]], [0])
    for reply, message in (
        ({"data": []}, "serves no model"),
        ({"data": None}, "serves no model"),
        ([{"id": "x"}], "list of models; is it OpenAI-compatible"),
        ({"models": []}, "list of models"),
        ({"data": [{"name": "x"}]}, "list of models"),
        ({"data": {"id": "x"}}, "list of models"),
        ({"data": "x"}, "list of models"),
    ):
        server.models = lambda reply=reply: (200, reply)
        with pytest.raises(FaithgenError, match=message) as caught:
            EndpointSampler(server.url).served_model()
        assert "\n" not in str(caught.value)


def test_a_reply_that_breaks_off_is_asked_for_again_and_then_said(server):
    sampler = EndpointSampler(server.url, model="m", retries=1, pause=0.01)
    server.announced = 5_000  # bytes; the connection ends before
    with pytest.raises(FaithgenError, match=r"cannot be used.*IncompleteRead"):
        sampler([[1]], [0])
    assert len(server.asked) == 2
    server.handler = lambda body: (400, {"error": "too long"})
    with pytest.raises(FaithgenError, match="refused the request"):
        sampler([[1]], [0])


def test_an_address_that_cannot_be_is_said_at_once():
    with pytest.raises(FaithgenError, match="cannot be used"):
        EndpointSampler("http://local host/v1", retries=4, pause=100).served_model()


def test_a_server_that_is_not_there_is_said():
    with pytest.raises(FaithgenError, match="is the server up"):
        EndpointSampler("http://127.0.0.1:9/v1", retries=0).served_model()
    with pytest.raises(FaithgenError, match="no address"):
        EndpointSampler("localhost:8000")
