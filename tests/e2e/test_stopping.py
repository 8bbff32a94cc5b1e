"""A stop loses no answer that is being given, and nobody holds it up."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tests.serving import FathomServe
from tritonclient.grpc import service_pb2_grpc

from fathom_client import Client


@pytest.fixture(scope="module")
def one_model(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the large model alone."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "chat").symlink_to(repository / "chat")
    return folder


@pytest.mark.timeout(120)
def test_running_answers_end_whole_and_idle_streams_do_not_matter(
    serve: Callable[..., FathomServe], one_model: Path
) -> None:
    """SIGTERM under four streams and an idle one: each answer comes whole, and the server ends with status 0."""
    server = serve(one_model, "--drain-s", "30")
    with Client(server.url) as client, grpc.insecure_channel(server.url) as bystander:
        streams = [client.stream("chat", "hello", max_tokens=600, ignore_eos=True) for _ in range(4)]
        for stream in streams:
            next(iter(stream))
        idle = threading.Event()

        def silence():
            idle.wait()
            yield from ()

        held = service_pb2_grpc.GRPCInferenceServiceStub(bystander).ModelStreamInfer(silence())
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        answers = [stream.result() for stream in streams]
        assert [answer.num_output_tokens for answer in answers] == [600] * 4
        assert server.process.wait(60) == 0
        idle.set()
        held.cancel()
    assert server.triton_processes() == []
