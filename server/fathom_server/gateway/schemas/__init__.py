"""Bodies of requests and answers as OpenAI's API defines them; an unknown field of a request is refused."""
