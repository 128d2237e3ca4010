"""Threads that share a generator, and asynchronous answers that are cancelled, closed or dropped."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("llama_index.core", reason="pip install 'faithgen[llama-index]'")

from llama_index.response_synthesizers.faithgen import FaithfulSynthesizer

from faithgen import generator as generator_module

QUESTIONS = [
    "Who built the tide mill?",
    "When was the lamp lit?",
    "What does the bakery sell?",
    "Where does the tram go?",
]
NEW_TOKENS = 32


def run(coroutine):
    """A test's coroutine; what hangs fails."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_eight_threads_get_the_answers_of_one(tiny_generator, retrieved):
    """Through two synthesizers with different prompts, in all four ways."""
    synthesizers = [
        FaithfulSynthesizer(tiny_generator, max_new_tokens=8, streaming=streaming, instruction=instruction)
        for streaming in (False, True)
        for instruction in (None, "Reply in verse.")
    ]

    async def asynchronous(synthesizer, question):
        response = await synthesizer.asynthesize(question, retrieved)
        return await response.get_response() if synthesizer._streaming else response

    def ask(place):
        synthesizer, question = synthesizers[place % 4], QUESTIONS[place // 4 % 4]
        if place // 16:
            response = asyncio.run(asynchronous(synthesizer, question))
        else:
            response = synthesizer.synthesize(question, retrieved)
            response = response.get_response() if synthesizer._streaming else response
        report = {name: value for name, value in response.metadata["faithgen"].items() if name != "timings"}
        return response.response, report, response.source_nodes

    for place in range(4):
        ask(place)  # documents that were read before round differently
    expected = [ask(place) for place in range(32)]
    assert len({answer for answer, _, _ in expected[:16]}) > 4  # they differ, so that a mix-up shows
    barrier = threading.Barrier(8)

    def at_once(place):
        if place < 8:
            barrier.wait(60)
        return ask(place)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(at_once, range(32))) == expected


def test_tasks_of_one_event_loop_get_the_answers_of_one(tiny_generator, retrieved):
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=8)
    expected = [synthesizer.synthesize(question, retrieved).response for question in QUESTIONS]

    async def ask():
        return await asyncio.gather(*(synthesizer.asynthesize(question, retrieved) for question in QUESTIONS))

    assert [response.response for response in run(ask())] == expected


# --- the end of a stream ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["read", "cancel", "cancel elsewhere", "close", "drop"])
def test_an_asynchronous_stream_that_ends_frees_its_memory(tiny_generator, retrieved, decoding, end):
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=NEW_TOKENS, streaming=True)

    async def read(reached):
        response = await synthesizer.asynthesize(QUESTIONS[0], retrieved)
        count = 0
        async for _ in response.response_gen:
            count += 1
            if count == 3:
                assert decoding.alive() == 2  # the decoder, and its keys and values
                reached.set()
                if end == "cancel elsewhere":
                    await asyncio.sleep(60)
                if end == "close":
                    await response.response_gen.aclose()
                    assert decoding.alive() == 0  # although the response is still there
                    assert response.metadata["faithgen"]["tokens"]
                if end == "drop":
                    return

    async def ask():
        reached = asyncio.Event()
        task = asyncio.create_task(read(reached))
        await asyncio.wait([task, waiting := asyncio.create_task(reached.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert waiting.done()
        if end.startswith("cancel"):
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == end.startswith("cancel")
        if not task.cancelled():
            task.result()
        del task
        gc.collect()  # a cancelled task's traceback holds its frames
        await until(lambda: decoding.alive() == 0)
        done = decoding.steps
        await asyncio.sleep(0.05)
        assert decoding.steps == done
        return done

    steps = run(ask())
    assert steps == NEW_TOKENS - 1 if end == "read" else 2 <= steps < NEW_TOKENS - 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_that_is_never_read_frees_its_memory(tiny_generator, retrieved, decoding, asynchronous):
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=NEW_TOKENS, streaming=True)
    if asynchronous:
        response = run(synthesizer.asynthesize(QUESTIONS[0], retrieved))
    else:
        response = synthesizer.synthesize(QUESTIONS[0], retrieved)
    assert decoding.alive() == 2
    nodes = response.source_nodes
    del response
    gc.collect()  # instrumentation ties knots
    run(until(lambda: decoding.alive() == 0))  # the worker lets go of the last step in its own time
    assert nodes
    assert decoding.steps < 3


def test_a_stream_that_is_closed_frees_its_memory(tiny_generator, retrieved, decoding):
    response = FaithfulSynthesizer(tiny_generator, max_new_tokens=NEW_TOKENS, streaming=True).synthesize(
        QUESTIONS[0], retrieved
    )
    next(response.response_gen)
    assert decoding.alive() == 2
    response.response_gen.close()
    assert decoding.alive() == 0
    assert response.metadata["faithgen"]["tokens"]


def test_breaking_out_of_a_kept_response_wants_its_generator_closed(tiny_generator, retrieved, decoding):
    """As the README says."""
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=NEW_TOKENS, streaming=True)

    async def ask():
        response = await synthesizer.asynthesize(QUESTIONS[0], retrieved)
        async for _ in response.async_response_gen():
            break
        gc.collect()
        await asyncio.sleep(0.05)
        assert decoding.alive() == 2
        await response.response_gen.aclose()
        await until(lambda: decoding.alive() == 0)
        assert response.metadata["faithgen"]["tokens"]

    run(ask())


# --- a step under way -------------------------------------------------------------------------------------------------


@pytest.fixture
def held(decoding, monkeypatch):
    """The second step of decoding waits for `go_on`."""

    class Held:
        inside, go_on = threading.Event(), threading.Event()

    advance = decoding._advance

    def slow(self, *arguments):
        Held.inside.set()
        assert Held.go_on.wait(60)
        return advance(self, *arguments)

    monkeypatch.setattr(decoding, "_advance", slow)
    yield Held
    Held.go_on.set()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("strings", [False, True])
def test_a_chat_engine_that_turns_streaming_on_or_off_changes_no_answer_under_way(
    tiny_generator, retrieved, held, streaming, strings
):
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=4, streaming=streaming)

    async def ask():
        if strings:
            asked = synthesizer.aget_response(QUESTIONS[0], [given.node.text for given in retrieved])
        else:
            asked = synthesizer.asynthesize(QUESTIONS[0], retrieved)
        task = asyncio.create_task(asked)
        await until(held.inside.is_set)
        synthesizer._streaming = not streaming  # as LlamaIndex's chat engines do around a question
        held.go_on.set()
        found = await task
        if streaming:
            return "".join([piece async for piece in (found if strings else found.response_gen)])
        return found if strings else found.response

    assert run(ask()) == tiny_generator.generate(QUESTIONS[0], [g.node.text for g in retrieved], max_new_tokens=4).text


@pytest.mark.parametrize("streaming", [False, True])
def test_cancelling_does_not_wait_for_the_step_under_way(tiny_generator, retrieved, decoding, held, streaming):
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=NEW_TOKENS, streaming=streaming)

    async def read():
        response = await synthesizer.asynthesize(QUESTIONS[0], retrieved)
        async for _ in response.response_gen:
            pass

    async def ask():
        task = asyncio.create_task(read())
        await until(held.inside.is_set)  # the event loop is free while the model works
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not held.go_on.is_set()
        held.go_on.set()
        await until(lambda: decoding.alive() == 0)
        assert decoding.steps == 1

    run(ask())


def test_cancelling_while_nodes_are_ranked_spares_the_prefill(tiny_generator, retrieved, decoding, monkeypatch):
    ranking, go_on = threading.Event(), threading.Event()
    rank = generator_module.rank_documents

    def slow(*arguments):
        ranking.set()
        assert go_on.wait(60)
        return rank(*arguments)

    monkeypatch.setattr(generator_module, "rank_documents", slow)
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=NEW_TOKENS)

    async def ask():
        task = asyncio.create_task(synthesizer.asynthesize(QUESTIONS[0], retrieved))
        await until(ranking.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await synthesizer.asynthesize(QUESTIONS[1], retrieved)  # after the first, in the same thread
        assert len(decoding.found) == 2  # its own decoder, keys and values

    run(ask())


def test_a_task_cancelled_in_the_queue_never_starts(tiny_generator, retrieved, decoding, held):
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=4)

    async def ask():
        first = asyncio.create_task(synthesizer.asynthesize(QUESTIONS[0], retrieved))
        await until(held.inside.is_set)
        started = len(decoding.found)
        second = asyncio.create_task(synthesizer.asynthesize(QUESTIONS[1], retrieved))
        await asyncio.sleep(0.02)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        held.go_on.set()
        response = await first
        assert len(response.metadata["faithgen"]["tokens"]) == 4
        assert len(decoding.found) == started

    run(ask())


def test_an_error_of_a_step_reaches_the_reader(tiny_generator, retrieved, decoding, monkeypatch):
    def broken(self, *arguments):
        raise MemoryError("out of memory")

    monkeypatch.setattr(decoding, "_advance", broken)
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=4)
    with pytest.raises(MemoryError):
        run(synthesizer.asynthesize(QUESTIONS[0], retrieved))
    with pytest.raises(MemoryError):
        synthesizer.synthesize(QUESTIONS[0], retrieved)
    gc.collect()
    run(until(lambda: decoding.alive() == 0))
