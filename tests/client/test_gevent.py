"""The sync client among greenlets, as the load test runs it."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gevent.monkey
gevent.monkey.patch_all()
import grpc.experimental.gevent
grpc.experimental.gevent.init_gevent()
import json, sys, gevent
from pathlib import Path
from fathom_client import Client, DeadlineExceededError, ModelNotFoundError

url, folder = sys.argv[1], Path(sys.argv[2])
slow = json.dumps({"delay_s": 0.1}) + chr(10)
ticks = 0

def tick():
    global ticks
    while True:
        gevent.sleep(0.02)
        ticks += 1

def read(client, text, **options):
    with client.stream("chat", slow + text, **options) as stream:
        return "".join(chunk.text for chunk in stream)

def leave(client, number):
    orders = {"delay_s": 0.02, "marker": str(folder / f"cancelled-{number}")}
    for _ in client.stream("chat", json.dumps(orders) + chr(10) + "a " * 500):
        break

def fails(kind, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except kind:
        return True

ticker = gevent.spawn(tick)
clients = [Client(url) for _ in range(8)]
texts = [f"greenlet {number} has five words" for number in range(64)]
readers = [gevent.spawn(read, clients[number % 8], text) for number, text in enumerate(texts)]
gevent.joinall(readers)
assert [reader.value for reader in readers] == texts
assert ticks >= 5, ticks  # five words took half a second at least: others ran meanwhile
gevent.joinall([gevent.spawn(leave, clients[number], number) for number in range(8)])
assert clients[0].embed("minilm", texts).vectors.shape == (64, 8)
assert fails(ModelNotFoundError, clients[0].generate, "nobody", "a")
assert fails(DeadlineExceededError, read, clients[0], "a " * 500, timeout_s=0.3)
outcomes = clients[2].generate_many("chat", [slow + text for text in texts], concurrency=32)
assert [outcome.text for outcome in outcomes] == texts
with Client([url, "127.0.0.1:1"]) as several:  # one of which is away, and asked now and then whether it is back
    for number in range(8):
        assert several.generate("chat", f"turn {number}").text == f"turn {number}"
        gevent.sleep(0.2)
killed = gevent.spawn(read, clients[1], "a " * 500)
gevent.sleep(0.3)
killed.kill()
for client in clients:
    client.close()
print(json.dumps("done"))
"""


def test_greenlets_share_the_process(url: str, tmp_path: Path, seen) -> None:
    """Under gevent many streams run at once, waiting blocks no other greenlet, and leaving cancels."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, url, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "done"
    for number in range(8):
        assert seen(f"cancelled-{number}").startswith("cancelled after")
