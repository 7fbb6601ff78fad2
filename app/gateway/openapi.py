"""The OpenAPI description, made from the schemas that the requests are checked with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.gateway.stats import Stats
from schemas.receipt import Receipt
from schemas.search import MAX_K, SearchRequest, SearchResponse, ShardFreshness, WaitParameters
from schemas.waiting import WaitRequest, WaitResponse

_REF = "#/components/schemas/{model}"
_SEARCH = f"""\
Returns up to k (at most {MAX_K}) documents, best first, by their best chunks.

- `vector`: by cosine similarity with the query's vector.
- `keyword`: by BM25. Words are alternatives; `"a phrase"` must stand as it is, `pars*` is any word that begins so, \
`-word` must not occur. Nothing is a syntax error.
- `hybrid`, the default for a text: both, fused by reciprocal rank.
"""
_WAIT = """\
Returns when the shards of the partitions in `min_offsets` have applied these source offsets, so that a search of any \
mode sees them; also for changes that produced nothing, as duplicates do, and for deletes.
"""
_WAIT_EXAMPLES = {"everywhere": {"value": {"min_offsets": {"0": 0}, "replicas": "all", "timeout_ms": 5000}}}
_EXAMPLES = {
    "hybrid": {"summary": "by meaning and keywords", "value": {"query": "parse a date", "k": 5}},
    "keyword": {
        "summary": "by keywords",
        "value": {"query": '"time zone" pars* -naive', "mode": "keyword", "k": 5},
    },
    "vector": {"summary": "by meaning", "value": {"query": "parse a date", "mode": "vector", "k": 5}},
}


class ErrorBody(BaseModel):
    """What went wrong, in a sentence that names the field and what is accepted.

    document_id: of a 404, the document that there is not. A 404 without it says nothing of documents.
    """

    status: int
    message: str
    document_id: str | None = None


class Error(BaseModel):
    """Every answer with a status from 400 on."""

    error: ErrorBody


class Document(BaseModel):
    """A stored document with its offsets and times."""

    id: str
    shard: int
    title: str | None
    text: str
    metadata: dict[str, Any]
    version: int | None
    source_offset: int
    event_time: str
    indexed_time: str
    trace_id: str | None
    freshness: ShardFreshness


_MODELS = (SearchRequest, SearchResponse, WaitRequest, WaitResponse, Document, Receipt, Stats, Error)
_ID = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]


def openapi(version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of the public API."""
    _, definitions = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    search_responses = _responses("SearchResponse", "The answer", (400, 413, 503, 504))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace",
            "version": version,
            "description": "Search over documents that change all day. Every answer says how fresh it is.",
        },
        "paths": {
            "/search": {
                "post": {
                    "summary": "Search by meaning, by keywords, or by both",
                    "description": _SEARCH,
                    "operationId": "search",
                    "parameters": _query_parameters(WaitParameters),
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/SearchRequest"},
                                "examples": _EXAMPLES,
                            }
                        },
                    },
                    "responses": search_responses,
                }
            },
            "/wait": {
                "post": {
                    "summary": "Wait until changes are applied, without searching",
                    "description": _WAIT,
                    "operationId": "wait",
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/WaitRequest"},
                                "examples": _WAIT_EXAMPLES,
                            }
                        },
                    },
                    "responses": _responses("WaitResponse", "They are", (400, 413, 503, 504)),
                }
            },
            "/documents/{id}/receipt": {
                "get": {
                    "summary": "Which replicas have the newest state of a document, and since when; deleted ones too",
                    "operationId": "receipt",
                    "parameters": _ID,
                    "responses": _responses("Receipt", "What every replica holds", (400, 404, 503)),
                }
            },
            "/documents/{id}": {
                "get": {
                    "summary": "A stored document",
                    "operationId": "document",
                    "parameters": _ID,
                    "responses": _responses("Document", "The document as it is stored", (400, 404, 503)),
                }
            },
            "/status": _plain("Every shard and embed worker, its state, how stale it is; what changed last"),
            "/stats": {
                "get": {
                    "summary": "Every shard for its operator: sizes, recall, memory, snapshot, rebuild",
                    "operationId": "stats",
                    "responses": {"200": _answer("Stats", "As the index workers described themselves last")},
                }
            },
            "/healthz": _plain("The process answers"),
            "/readyz": _plain("200 when every shard can be searched, else 503 and the reason", (503,)),
            "/metrics": _plain("Prometheus metrics"),
        },
        "components": {"schemas": definitions["$defs"]},
    }


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """In place of the field of the body that has the same name."""
    schemas = model.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "description": "as in the body, in place of it",
            "schema": next(kind for kind in schema["anyOf"] if kind["type"] != "null"),
        }
        for name, schema in schemas.items()
    ]


def _responses(model: str, description: str, errors: tuple[int, ...]) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": _answer(model, description)}
    return answers | {str(status): _answer("Error", _ERRORS[status]) for status in errors}


def _answer(model: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}},
    }


def _plain(summary: str, errors: tuple[int, ...] = ()) -> dict[str, Any]:
    responses = {"200": {"description": "OK"}} | {str(status): {"description": _ERRORS[status]} for status in errors}
    return {"get": {"summary": summary, "responses": responses}}


_ERRORS = {
    400: "The request is wrong; the message names the field",
    404: "There is no such document, or it was deleted; document_id is its id",
    413: "The body is too large",
    503: "No shard can answer at present",
    504: "min_offsets or max_staleness_ms was not reached in time",
}
