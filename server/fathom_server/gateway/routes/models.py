"""``GET /v1/models`` and ``GET /v1/models/{model}``."""

from fastapi import APIRouter, Request

from fathom_server.gateway.catalog import ModelCatalog, ServedModel
from fathom_server.gateway.schemas.models import Model, ModelList

OWNER = "fathom"

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """List the models that are ready."""
    catalog: ModelCatalog = request.app.state.catalog
    return ModelList(object="list", data=[_model(model) for model in await catalog.all()])


@router.get("/v1/models/{model}")
async def get_model(request: Request, model: str) -> Model:
    """Say what one model is for."""
    catalog: ModelCatalog = request.app.state.catalog
    return _model(await catalog.get(model))


def _model(model: ServedModel) -> Model:
    return Model(id=model.name, object="model", created=model.seen, owned_by=OWNER, task=model.task)
