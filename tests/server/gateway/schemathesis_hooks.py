"""What schemathesis is told of the gateway beyond its document: which models there are, and how large vectors are."""

from typing import Any, Final

import schemathesis

MODELS: Final = {"/v1/embeddings": "minilm", "/v1/rerank": "reranker"}
"""Any other endpoint of models is a language model's."""

DIMENSIONS: Final = 8


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Give half of the bodies a model that is there, so that they get past the search for it."""
    if not isinstance(body, dict) or not isinstance(name := body.get("model"), str) or len(name) % 2 == 0:
        return body
    path = "" if context.operation is None else context.operation.path
    body = {**body, "model": MODELS.get(path, "chat")}
    dimensions = body.get("dimensions")
    if type(dimensions) is int and dimensions > 0:
        body["dimensions"] = DIMENSIONS
    return body
