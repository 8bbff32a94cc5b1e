"""The API's document made true: the errors that the layers add to every endpoint, and the key that it asks for."""

from typing import Any, Final

from fastapi import FastAPI

from fathom_server.gateway import errors
from fathom_server.gateway.edge.authentication import OPEN_PATHS
from fathom_server.gateway.errors import ApiError
from fathom_server.gateway.schemas.error import ErrorBody

ANY: Final = (errors.InvalidApiRequestError, errors.GatewayFaultError, errors.UnavailableError)
WITH_KEY: Final = (errors.AuthenticationError,)
POSTED: Final = (
    errors.UnknownModelError,
    errors.SlowRequestError,
    errors.BodyTooLargeError,
    errors.MediaTypeError,
    errors.RateLimitError,
    errors.LateAnswerError,
)

_SCHEMES: Final = {"bearer": {"type": "http", "scheme": "bearer"}}
_SCHEMA: Final = "ErrorBody"
_UNUSED: Final = ("HTTPValidationError", "ValidationError")


def complete_document(api: FastAPI, *, with_keys: bool) -> None:
    """Make ``api.openapi()`` say which errors each endpoint gives, in OpenAI's form, and not FastAPI's own."""
    plain = api.openapi

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            made = plain()
            _complete(made, with_keys)
            api.openapi_schema = made
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign] # FastAPI's way of extending it


def _complete(document: dict[str, Any], with_keys: bool) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _UNUSED:
        schemas.pop(name, None)
    error = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**error.pop("$defs"), _SCHEMA: error}
    if with_keys:
        components["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            kinds: list[type[ApiError]] = [*ANY]
            if with_keys and path not in OPEN_PATHS:
                operation["security"] = [{"bearer": []}]
                kinds += WITH_KEY
            if method == "post":
                kinds += POSTED
            elif "{" in path:
                kinds.append(errors.UnknownModelError)
            responses = operation["responses"]
            responses.pop("422", None)
            for kind in sorted(kinds, key=lambda each: each.status):
                responses.setdefault(str(kind.status), _response(kind))


def _response(kind: type[ApiError]) -> dict[str, Any]:
    """One error's entry; the first line of its docstring says when it comes."""
    return {
        "description": (kind.__doc__ or "").strip().splitlines()[0],
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_SCHEMA}"}}},
    }
