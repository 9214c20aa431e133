"""The OpenAPI description of the REST interface."""

from __future__ import annotations

from typing import Any

from anchorsr import __version__
from anchorsr.serve.options import parameters

_ERROR = {
    "description": "What is wrong, in one sentence.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_JOB = {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_REFUSALS = ("400", "401", "403", "408", "413", "421", "422", "429", "501")


def _errors(*statuses: str) -> dict[str, Any]:
    return dict.fromkeys(statuses, _ERROR)


def _upload() -> list[dict[str, Any]]:
    rows = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": parameter.description,
            "schema": dict(parameter.schema),
        }
        for name, parameter in parameters().items()
    ]
    named = {
        "name": "name",
        "in": "query",
        "required": False,
        "description": "What the file is called: for messages and for the result's name.",
        "schema": {"type": "string"},
    }
    return [*rows, named]


def describe_api() -> dict[str, Any]:
    """Return the description, in OpenAPI 3.1."""
    body = {
        "required": True,
        "content": {
            "application/octet-stream": _FILE,
            "image/*": _FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
    job_id = {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    }
    wait = {
        "name": "wait",
        "in": "query",
        "required": False,
        "description": "Answer when the job has ended, or after so many seconds.",
        "schema": {"type": "number", "minimum": 0, "maximum": 60},
    }
    image = {"description": "The upscaled file.", "content": {"*/*": _FILE}}
    access = _errors("401", "403", "421")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "anchorsr",
            "version": __version__,
            "description": "Upscale images and videos in 8-bit integers on this machine.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/api/upscale": {
                "post": {
                    "summary": "Upscale an image, and wait for it.",
                    "operationId": "upscale",
                    "parameters": _upload(),
                    "requestBody": body,
                    "responses": {"200": image, **_errors(*_REFUSALS)},
                }
            },
            "/api/jobs": {
                "get": {
                    "summary": "List the jobs.",
                    "operationId": "listJobs",
                    "responses": {
                        "200": {
                            "description": "The jobs, oldest first.",
                            "content": {
                                "application/json": {
                                    "schema": {
                                        "type": "object",
                                        "required": ["jobs"],
                                        "properties": {
                                            "jobs": {
                                                "type": "array",
                                                "items": {"$ref": "#/components/schemas/Job"},
                                            }
                                        },
                                    }
                                }
                            },
                        },
                        **access,
                    },
                },
                "post": {
                    "summary": "Upscale an image or a video; do not wait.",
                    "operationId": "newJob",
                    "parameters": _upload(),
                    "requestBody": body,
                    "responses": {
                        "202": {"description": "The job.", "content": _JOB},
                        **_errors(*_REFUSALS),
                    },
                },
            },
            "/api/jobs/{id}": {
                "get": {
                    "summary": "Ask how far a job is.",
                    "operationId": "job",
                    "parameters": [job_id, wait],
                    "responses": {
                        "200": {"description": "The job.", "content": _JOB},
                        **_errors("400", "404"),
                        **access,
                    },
                },
                "delete": {
                    "summary": "Cancel a job, or delete its result.",
                    "operationId": "deleteJob",
                    "parameters": [job_id],
                    "responses": {
                        "204": {"description": "It is gone."},
                        **_errors("404"),
                        **access,
                    },
                },
            },
            "/api/jobs/{id}/result": {
                "get": {
                    "summary": "Get the result of a job.",
                    "operationId": "result",
                    "parameters": [job_id],
                    "responses": {
                        "200": image,
                        **_errors("404", "408", "409", "413", "422", "501"),
                        **access,
                    },
                }
            },
            "/api/models": {
                "get": {
                    "summary": "List the models.",
                    "operationId": "models",
                    "responses": {
                        "200": {
                            "description": "Models by name.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        },
                        **access,
                    },
                }
            },
            "/healthz": {
                "get": {
                    "summary": "Ask whether the server is up.",
                    "operationId": "health",
                    "responses": {
                        "200": {
                            "description": "It is.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        },
                        **_errors("403", "421"),
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Get counters in the text format of Prometheus.",
                    "operationId": "metrics",
                    "responses": {
                        "200": {
                            "description": "The counters.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        },
                        **access,
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}},
                },
                "Job": {
                    "type": "object",
                    "required": ["id", "name", "state"],
                    "properties": {
                        "id": {"type": "string"},
                        "name": {"type": "string"},
                        "state": {"enum": ["waiting", "running", "done", "failed"]},
                        "progress": {"type": "number", "minimum": 0, "maximum": 1},
                        "error": {"type": "string"},
                        "result": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"type": "string"},
                                "size": {"type": "array", "items": {"type": "integer"}},
                                "target_size": {"type": "array", "items": {"type": "integer"}},
                                "notes": {"type": "array", "items": {"type": "string"}},
                            },
                        },
                    },
                },
            },
        },
    }
