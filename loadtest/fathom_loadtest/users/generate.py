"""Users who ask an LLM and read its answer as it streams."""

from fathom_client import GenerateOptions, GenerationStream
from fathom_loadtest.phase import Phase
from fathom_loadtest.prompts import Prompt
from fathom_loadtest.users.base import Answer, LoadUser


class GenerateUser(LoadUser):
    """Sends plain text (task ``generate``)."""

    def ask(self, prompt: Prompt, answer: Answer) -> None:
        """Stream the continuation of a text."""
        stream = self.connection.stream(self.phase.scenario.model, prompt.text or "", **options(self.phase, prompt))
        read(stream, answer)


class ChatUser(LoadUser):
    """Sends the messages of a conversation (task ``chat``)."""

    def ask(self, prompt: Prompt, answer: Answer) -> None:
        """Stream the answer to a conversation."""
        stream = self.connection.stream_chat(
            self.phase.scenario.model, prompt.as_messages(), **options(self.phase, prompt)
        )
        read(stream, answer)


def options(phase: Phase, prompt: Prompt) -> GenerateOptions:
    """Give a request's options as the scenario and the prompt set them."""
    scenario = phase.scenario
    return {
        "max_tokens": prompt.max_tokens,
        "temperature": scenario.temperature,
        "ignore_eos": scenario.ignore_eos,
    }


def read(stream: GenerationStream, answer: Answer) -> None:
    """Read a stream to its end, noting each response as it arrives."""
    with stream:
        for chunk in stream:
            answer.respond(chunk.num_output_tokens)
        whole = stream.result()
    answer.num_input_tokens = whole.num_input_tokens
    answer.num_output_tokens = whole.num_output_tokens
    answer.finish_reason = whole.finish_reason
