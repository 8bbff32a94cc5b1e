"""Users who ask for the embedding of one text at a time."""

from fathom_loadtest.prompts import Prompt
from fathom_loadtest.users.base import Answer, LoadUser


class EmbedUser(LoadUser):
    """Sends one text a request (task ``embed``)."""

    def ask(self, prompt: Prompt, answer: Answer) -> None:
        """Embed a text."""
        embeddings = self.connection.embed(self.phase.scenario.model, [prompt.text or ""], batch_size=1)
        answer.respond(0)
        answer.num_input_tokens = sum(embeddings.num_input_tokens)
