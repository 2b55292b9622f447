"""Every error answer is `application/problem+json` (RFC 9457). No SQL, no traceback."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
_TYPE = "urn:meterstream:problem:"


class FieldError(BaseModel):
    """One thing that is wrong with a request, and what to do about it."""

    model_config = ConfigDict(extra="forbid")

    field: str = Field(examples=["from"])
    location: str = Field(examples=["query"])
    problem: str = Field(examples=["Input should have timezone info"])
    remedy: str = Field(examples=["add Z or an offset: 2026-01-31T00:00:00Z"])


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `request_id` is the one of the header X-Request-ID."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:meterstream:problem:not-found",
                "title": "Not found",
                "status": 404,
                "detail": "no device has the name, address or id 'kitchn'",
                "request_id": "0b8b3c4c5a9e4f6c8a55b7f1a2d5c9e0",
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[FieldError] | None = None


class Problem(Exception):
    """An answer other than the wanted one. `kind` ends the type's URN, e.g. `not-found`."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers, self.more = dict(headers or {}), more

    def response(self, request_id: str | None) -> JSONResponse:
        document: dict[str, object] = {
            "type": _TYPE + self.kind,
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.more,
        }
        return JSONResponse(document, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def invalid(field: str, problem: str, remedy: str) -> Problem:
    """A query that reads well but cannot be answered: 422 that names the field."""
    error = FieldError(field=field, location="query", problem=problem, remedy=remedy)
    return _invalid([error])


def bad_cursor(why: str) -> Problem:
    return Problem(
        400, "bad-cursor", f"the cursor {why}; take next_cursor as it is, or begin without one"
    )


def database_away() -> Problem:
    return Problem(
        503,
        "database-away",
        "the database does not answer; try again soon",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def internal_error() -> Problem:
    return Problem(500, "internal-error", "an error of ours; the log has it under the request id")


def _invalid(errors: Sequence[FieldError]) -> Problem:
    first = errors[0]
    return Problem(
        422,
        "invalid-request",
        f"{first.field}: {first.problem}; {first.remedy}",
        errors=[error.model_dump() for error in errors],
    )


_REMEDIES = {
    "missing": "give it",
    "extra_forbidden": "leave it out, or look for a misspelt name",
    "timezone_aware": "add Z or an offset: 2026-01-31T00:00:00Z",
    "datetime_from_date_parsing": "write it like 2026-01-31T00:00:00Z, a + as %2B",
    "datetime_parsing": "write it like 2026-01-31T00:00:00Z, a + as %2B",
    "int_parsing": "give a whole number",
    "bool_parsing": "give true or false",
}


def _field_error(error: Mapping[str, Any]) -> FieldError:
    location, *names = (str(part) for part in error["loc"])
    kind, about = error["type"], error.get("ctx", {})
    remedy = _REMEDIES.get(kind, "see /docs")
    if kind == "literal_error" or kind == "enum":
        remedy = f"give one of {about['expected']}"
    elif kind in ("greater_than_equal", "less_than_equal"):
        remedy = f"give {about.get('ge', about.get('le'))} or {'more' if 'ge' in about else 'less'}"
    elif kind in ("string_too_long", "string_too_short"):
        remedy = "give a shorter text" if kind == "string_too_long" else "give a longer text"
    elif kind == "value_error":
        problem, _, remedy = str(about["error"]).partition("; ")
        return FieldError(
            field=".".join(names), location=location, problem=problem, remedy=remedy or "see /docs"
        )
    return FieldError(
        field=".".join(names) or location, location=location, problem=error["msg"], remedy=remedy
    )


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Give the errors of an OpenAPI document their media type, which FastAPI takes for JSON."""
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status >= "400" and "application/json" in content:
                    content[MEDIA_TYPE] = content.pop("application/json")
    return document


# ---------------------------------------------------------------- exceptions → answers


def request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


def install(app: FastAPI) -> None:
    """Answer every exception with a problem; what is not ours is logged."""
    app.exception_handler(Problem)(_on_problem)
    app.exception_handler(HTTPException)(_on_http)
    app.exception_handler(RequestValidationError)(_on_validation)
    app.exception_handler(psycopg.OperationalError)(_on_database)
    app.exception_handler(psycopg.InterfaceError)(_on_database)
    app.exception_handler(psycopg.errors.UndefinedTable)(_on_schema)
    app.exception_handler(psycopg.errors.QueryCanceled)(_on_timeout)


async def _on_problem(request: Request, problem: Problem) -> JSONResponse:
    return problem.response(request_id(request))


async def _on_http(request: Request, error: HTTPException) -> JSONResponse:
    phrase = HTTPStatus(error.status_code).phrase
    detail = {
        404: f"nothing is at {request.url.path[:200]}; see /docs",
        405: f"{request.method} cannot be used here; the header Allow names what can",
    }.get(error.status_code, str(error.detail))
    problem = Problem(
        error.status_code, phrase.lower().replace(" ", "-"), detail, headers=error.headers
    )
    return problem.response(request_id(request))


async def _on_validation(request: Request, error: RequestValidationError) -> JSONResponse:
    return _invalid([_field_error(one) for one in error.errors()]).response(request_id(request))


async def _on_database(request: Request, error: psycopg.Error) -> JSONResponse:
    structlog.get_logger().warning("database_away", error=type(error).__name__)
    return database_away().response(request_id(request))


async def _on_schema(request: Request, error: psycopg.Error) -> JSONResponse:
    structlog.get_logger().error("schema_missing", error=str(error.diag.message_primary))
    problem = Problem(
        503,
        "schema-missing",
        "the database has not the tables that this version needs; run meterstream migrate",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
    return problem.response(request_id(request))


async def _on_timeout(request: Request, error: psycopg.Error) -> JSONResponse:
    structlog.get_logger().warning("query_too_slow")
    problem = Problem(
        503,
        "too-slow",
        "the database took too long over this; ask for a shorter range",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
    return problem.response(request_id(request))
