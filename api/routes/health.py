"""Open to all: does the process live, is it ready, what has it counted."""

import time
from asyncio import Lock

import psycopg
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.database import Pool
from api.models import Health, Ready
from api.problems import RETRY_AFTER_S, Problem, ProblemDocument
from schemas.topics import RAW
from sinks import queries

_KEPT_S = 1.0


class Readiness:
    """What `/ready` says, asked of the database at most once a second."""

    def __init__(self, pool: Pool, revision: str, max_lag_s: float) -> None:
        self._pool, self._revision, self._max_lag_s = pool, revision, max_lag_s
        self._lock = Lock()
        self._until = 0.0
        self._said: tuple[list[str], float | None] = ([], None)

    async def ask(self) -> Ready:
        """Raises Problem 503 with the reasons."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._said = await self._look()
                self._until = time.monotonic() + _KEPT_S
            reasons, lag_s = self._said
        if reasons or lag_s is None:
            raise Problem(
                503,
                "not-ready",
                "; ".join(reasons),
                headers={"Retry-After": str(RETRY_AFTER_S)},
                ready=False,
                reasons=reasons,
            )
        return Ready(ready=True, schema_revision=self._revision, stream_lag_s=round(lag_s, 3))

    async def _look(self) -> tuple[list[str], float | None]:
        try:
            async with self._pool.connection() as conn:
                revision = await queries.schema_revision(conn)
                if revision != self._revision:
                    return [
                        f"schema: revision is {revision or 'none'}, expected {self._revision}; "
                        f"run meterstream migrate"
                    ], None
                progress = await queries.stream_progress(conn, RAW.name)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            return ["database: does not answer"], None
        reasons = []
        if progress.partitions < RAW.partitions:
            reasons.append(
                f"stream: {progress.partitions} of {RAW.partitions} partitions have progress"
            )
        if progress.without_time:
            reasons.append(f"stream: {progress.without_time} partitions know no time yet")
        if progress.lag_s is not None and progress.lag_s > self._max_lag_s:
            reasons.append(
                f"stream: {progress.lag_s:.0f} s behind, more than {self._max_lag_s:.0f} s"
            )
        return reasons, progress.lag_s


router = APIRouter(tags=["process"])


@router.get("/health", operation_id="getHealth", summary="Does the process live?")
async def health() -> Health:
    """Asks nothing of anybody else."""
    return Health(status="ok")


@router.get(
    "/ready",
    operation_id="getReady",
    summary="Can it answer with fresh data?",
    responses={503: {"model": ProblemDocument, "description": "Not ready; `reasons` tells why."}},
)
async def ready(request: Request) -> Ready:
    """The database answers, has the expected schema, and the stream keeps up."""
    readiness: Readiness = request.app.state.readiness
    return await readiness.ask()


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    return Response(
        generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
    )
