"""Who runs, who waits and what is computed again, through the real Triton: none of it changes an answer."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.serving import FathomServe, wait_until

from fathom_client import Client, DeadlineExceededError, GenerationStream, RequestCancelledError
from fathom_client import metric_names as names

PROMPT = "Sort these words: pear apple fig."
LONG = {"max_tokens": 2000, "ignore_eos": True}
BRIEF = {"max_tokens": 8, "ignore_eos": True}


def settled_hits(crowded: FathomServe) -> float:
    """Tokens that were found and not computed, once nothing of what was asked is still to be written."""
    last, hits = -1.0, 0.0
    while hits != last:
        last = hits
        time.sleep(0.5)
        hits = crowded.metric(names.PREFIX_CACHE_HITS, "full")
    return hits


@pytest.mark.timeout(120)
def test_prompts_that_begin_alike_share_what_was_computed(crowded: FathomServe, caller: Client) -> None:
    """A repeated beginning is found, not computed, and the answer is the one that was given without it."""
    beginning = "You answer in one word, in lower case, without a full stop. " * 8
    questions = [f"{beginning}Which of {noun}, stone and rain is alive?" for noun in ("fern", "wolf", "moss")]
    cold = []
    before = settled_hits(crowded)
    for place, question in enumerate(questions):
        caller.generate("full", [41 + place] * 500, max_tokens=1)  # takes the whole cache: nothing is left to share
        cold.append(caller.generate("full", question, **BRIEF).token_ids)
    assert settled_hits(crowded) == before
    caller.generate("full", questions[0], **BRIEF)
    before = settled_hits(crowded)
    warm = [caller.generate("full", question, **BRIEF).token_ids for question in questions]
    assert warm == cold
    shared = len(caller.tokenize("full", beginning).token_ids) // 32 * 32
    assert settled_hits(crowded) >= before + 3 * shared


@pytest.mark.timeout(120)
def test_a_full_cache_changes_no_answer(crowded: FathomServe, caller: Client) -> None:
    """Eight answers that the cache cannot hold together: some are computed again, all are what they are alone."""
    calls = [
        {"prompt": f"Repeat after me: {word}", "max_tokens": 150, "ignore_eos": True, "seed": place, **heat}
        for place, word in enumerate(("one", "two", "three", "four"))
        for heat in ({"temperature": 0.0}, {"temperature": 0.8})
    ]
    alone = [caller.generate("roomy", **call).token_ids for call in calls]
    before = crowded.metric(names.PREEMPTIONS, "full")
    with ThreadPoolExecutor(len(calls)) as pool:
        together = list(pool.map(lambda call: caller.generate("full", **call).token_ids, calls))
    assert together == alone
    wait_until(lambda: crowded.metric(names.PREEMPTIONS, "full") > before)


@pytest.mark.timeout(120)
def test_a_long_prompt_stops_nobody(caller: Client) -> None:
    """While a prompt of some 1,900 tokens is computed in chunks of 64, whoever was answering goes on in every step."""
    tokens = 0
    begun = threading.Event()

    def read() -> None:
        nonlocal tokens
        with contextlib.suppress(RequestCancelledError):
            for chunk in running:
                tokens += len(chunk.token_ids)
                begun.set()

    with caller.stream("roomy", PROMPT, max_tokens=1500, ignore_eos=True) as running:
        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
        before = tokens
        long = caller.generate("roomy", [41 + place % 7 for place in range(1900)], max_tokens=1)
        meanwhile = tokens - before
        running.close()
        reader.join()
    assert long.num_input_tokens == 1900
    assert meanwhile >= 20, "1,900 tokens are thirty steps, and the other answer gets a token in each"


def finishing_order(crowded: FathomServe, caller: Client, calls: list[tuple[str, dict[str, object]]]) -> list[str]:
    """The names of calls in the order in which they end; all wait while another holds the only place."""
    ended: list[str] = []
    holder = caller.stream("single", PROMPT, **LONG)
    next(iter(holder))
    streams = [(name, caller.stream("single", PROMPT, max_tokens=48, ignore_eos=True, **how)) for name, how in calls]
    wait_until(lambda: crowded.metric(names.REQUESTS_WAITING, "single") == len(calls))

    def read(name: str, stream: GenerationStream) -> None:
        stream.result()
        ended.append(name)

    threads = [threading.Thread(target=read, args=each) for each in streams]
    for thread in threads:
        thread.start()
    holder.close()
    for thread in threads:
        thread.join()
    return ended


@pytest.mark.timeout(60)
def test_the_urgent_go_first(crowded: FathomServe, caller: Client) -> None:
    """A lower priority number goes first, whoever came before, and a higher one last."""
    calls = [("later", {"priority": 5}), ("usual", {}), ("usual", {}), ("urgent", {"priority": -1})]
    assert finishing_order(crowded, caller, calls) == ["urgent", "usual", "usual", "later"]


@pytest.mark.timeout(60)
def test_clients_take_turns(crowded: FathomServe, caller: Client) -> None:
    """Who asks for much at once does not keep another, who comes last, waiting for all of it."""
    calls = [("greedy", {"client": "greedy"})] * 5 + [("modest", {"client": "modest"})] * 2
    order = finishing_order(crowded, caller, calls)
    assert order[:4].count("modest") == 2
    assert order[:2].count("modest") == 1


@pytest.mark.timeout(60)
def test_who_waits_too_long_for_a_turn_is_told(crowded: FathomServe, caller: Client) -> None:
    """A queue limit ends what still waits, with what to do; what runs goes on."""
    with caller.stream("impatient", PROMPT, **LONG) as running:
        next(iter(running))
        with pytest.raises(DeadlineExceededError, match="longer than it may wait for its turn"):
            caller.generate("impatient", PROMPT, max_tokens=1)
        assert crowded.metric(names.REQUESTS_RUNNING, "impatient") == 1
        assert next(iter(running)).token_ids
