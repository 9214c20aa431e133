"""The application: the page, and the REST interface that it uses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from anchorsr import __version__
from anchorsr.errors import RequestError
from anchorsr.serve.guard import Application, Guard
from anchorsr.serve.jobs import DONE, ENDED, FAILED, RUNNING, WAITING, Job, Jobs
from anchorsr.serve.limits import Limits
from anchorsr.serve.metrics import Metrics
from anchorsr.serve.openapi import describe_api
from anchorsr.serve.options import parse_options, plain_name
from anchorsr.serve.page_config import page_config, shipped_models
from anchorsr.serve.page_files import PAGE, SHARED_FILES

_LONGEST_WAIT = 60
_FORM = "a form (multipart/form-data) holds one file, in a field of any name, and nothing else"
_TYPES = {".avif": "image/avif", ".webp": "image/webp", ".heic": "image/heic", ".apng": "image/png"}
mimetypes.add_type("text/javascript", ".mjs")
mimetypes.add_type("application/wasm", ".wasm")
mimetypes.add_type("application/manifest+json", ".webmanifest")


def make_app(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    names: Collection[str] = (),
    token: str | None = None,
    limits: Limits = Limits(),
    workers: int = 2,
) -> Application:
    """Make the application.

    Args:
        folder: Where jobs are kept.
        host: What the server listens on.
        names: More names that it is asked under.
        token: Needed by clients, beyond loopback.
        limits: What it accepts.
        workers: How many jobs run at a time.
    """
    metrics = Metrics()
    jobs = Jobs(folder, limits, workers, lambda job, s: metrics.count_job(job.state, s))
    api = _Api(jobs, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await jobs.start()
        yield
        await jobs.stop()

    rest = [
        Route("/models", api.models),
        Route("/openapi.json", api.openapi),
        Route("/upscale", api.upscale, methods=["POST"]),
        Route("/jobs", api.jobs, methods=["GET", "POST"]),
        Route("/jobs/{id}", api.job, methods=["GET", "DELETE"]),
        Route("/jobs/{id}/result", api.result, methods=["GET"]),
    ]
    routes = [
        Route("/healthz", api.health),
        Route("/metrics", api.metrics),
        Route("/config.mjs", api.config),
        Mount("/api", routes=rest),  # so that other methods do not come to the page's files
        *(Route(f"/{path.name}", _page_file(path)) for path in SHARED_FILES),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    handlers: Mapping[Any, Any] = {
        RequestError: _answer_error,
        HTTPException: _answer_http_error,
        ClientDisconnect: _answer_nobody,
    }
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Guard(
        app,
        host=host,
        names=names,
        token=token,
        most_bytes=limits.bytes,
        refuse=_refusal,
        on_answer=metrics.count_request,
    )


def _page_file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return FileResponse(path)

    return answer


def _refusal(error: RequestError) -> Application:
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    headers |= {"retry-after": "5"} if error.status == 429 else {}
    headers |= {"connection": "close"} if error.status == 413 else {}
    answer: Application = JSONResponse(
        {"error": str(error)}, status_code=error.status, headers=headers
    )
    return answer


async def _answer_error(_: Request, error: RequestError) -> Any:
    return _refusal(error)


async def _answer_http_error(_: Request, error: HTTPException) -> Any:
    words = {404: "there is nothing at this address", 405: "this address has no such method"}
    message = words.get(error.status_code, error.detail)
    answer = JSONResponse({"error": message}, status_code=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _answer_nobody(_: Request, error: ClientDisconnect) -> Any:
    return Response(status_code=400)


class _Api:
    """The routes."""

    def __init__(self, jobs: Jobs, metrics: Metrics) -> None:
        self._jobs = jobs
        self._metrics = metrics

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def metrics(self, _: Request) -> Response:
        jobs = self._jobs
        text = self._metrics.text(waiting=jobs.count(WAITING), running=jobs.count(RUNNING))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def config(self, _: Request) -> Response:
        text = json.dumps(page_config("server", limits=self._jobs.limits))
        return Response(f"export default {text};\n", media_type="text/javascript")

    async def models(self, _: Request) -> Response:
        return JSONResponse({"models": shipped_models()})

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(describe_api())

    async def upscale(self, request: Request) -> Response:
        job = await self._receive(request, kept=False)
        gone = asyncio.create_task(_disconnected(request))
        ended = asyncio.create_task(self._jobs.ended(job))
        try:
            await asyncio.wait((gone, ended), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                raise ClientDisconnect
            if job.state == FAILED:
                raise RequestError(job.status, job.error)
            answer = await asyncio.to_thread(self._whole_result, job)
        finally:
            gone.cancel()
            ended.cancel()
            self._jobs.delete(job)
        return answer

    async def jobs(self, request: Request) -> Response:
        if request.method != "POST":
            return JSONResponse({"jobs": [job.describe() for job in self._jobs.all()]})
        job = await self._receive(request, kept=True)
        where = {"location": f"/api/jobs/{job.id}"}
        return JSONResponse(job.describe(), status_code=202, headers=where)

    async def job(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["id"])
        if request.method == "DELETE":
            self._jobs.delete(job)
            return Response(status_code=204)
        text = request.query_params.get("wait", "0")
        try:
            seconds = float(text)
            if not 0 <= seconds <= _LONGEST_WAIT:
                raise ValueError
        except ValueError:
            message = f"wait is a number of seconds from 0 to {_LONGEST_WAIT}, not {text[:80]!r}"
            raise RequestError(400, message) from None
        if seconds and job.state not in ENDED:
            await self._jobs.ended(job, seconds)
        return JSONResponse(job.describe())

    async def result(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["id"])
        if job.state == FAILED:
            raise RequestError(job.status, job.error)
        if job.state != DONE:
            raise RequestError(409, f"{job.name} is not done yet")
        return FileResponse(job.result_file, headers=_result_headers(job))

    def _whole_result(self, job: Job) -> Response:
        return Response(job.result_file.read_bytes(), headers=_result_headers(job))

    async def _receive(self, request: Request, *, kept: bool) -> Job:
        """Make a job of what a request brings: a file as the body, or one in a form."""
        query = dict(request.query_params)
        if len(query) != len(request.query_params.multi_items()):
            raise RequestError(400, "a parameter is given twice")
        name = query.pop("name", "")
        options = parse_options(query)
        with self._jobs.arriving():
            job = self._jobs.new(options, kept=kept)
            try:
                form_name = await _store(request, job)
                job.name = plain_name(name or form_name)
                if await request.is_disconnected():  # who cancels while sending never learns its id
                    raise ClientDisconnect
                self._jobs.submit(job)
            except BaseException:
                self._jobs.delete(job)
                raise
        return job


async def _store(request: Request, job: Job) -> str:
    """Write a request's file to the job's source; return its name, if the request says one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    name = ""
    size = 0
    with job.source.open("wb") as target:
        if kind == "multipart/form-data":
            async with contextlib.AsyncExitStack() as stack:
                try:
                    form = await stack.enter_async_context(request.form(max_files=1, max_fields=0))
                except HTTPException as error:  # it holds other things, or is damaged
                    raise RequestError(400, _FORM) from error
                files = [entry for _, entry in form.multi_items() if not isinstance(entry, str)]
                if len(files) != 1:
                    raise RequestError(400, _FORM)
                name = files[0].filename or ""
                while piece := await files[0].read(1 << 20):
                    size += target.write(piece)
        else:
            async for piece in request.stream():
                size += target.write(piece)
    if not size:
        raise RequestError(400, "the request holds no file: send an image as its body")
    return name


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.5)


def _result_headers(job: Job) -> dict[str, str]:
    name, suffix = job.result["name"], job.result_file.suffix
    kind = _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
    return {
        "content-type": kind,
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "cache-control": "no-store",
    }
