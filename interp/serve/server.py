"""The probe as a local page: Starlette and uvicorn on 127.0.0.1, for one person at one machine.

A page elsewhere must not reach it: the Host header must name this machine and this port (against DNS rebinding), an
Origin must be the page's own, bodies must be JSON, and there is no CORS. The model runs in one thread, one request at a
time; requests that the typist has superseded are dropped before they begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interp.errors import ConfigError, InterpError
from interp.models.judge import Judge
from interp.models.judge_runs import Baseline
from interp.serve.answers import answers

STATIC = Path(__file__).parent / "static"
HOST = "127.0.0.1"
NAMES = (HOST, "localhost", "[::1]")
LIMIT = 64 * 1024
"""Largest body of a request, in bytes."""
PATIENCE = 20.0
"""Seconds after which a request is given up."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Work = Callable[[str], dict[str, Any]]


def app(
    judge: Judge, *, baseline: Baseline = "mean", budget: int = 32, text: str = "", patience: float = PATIENCE
) -> Starlette:
    """The page and its requests; `text` is what the page begins with, `patience` the time limit in seconds."""
    known, worker = answers(judge, baseline=baseline, budget=budget, text=text), _Worker(patience)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        worker.close()

    async def index(_: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def introduce(_: Request) -> Response:
        return JSONResponse(known["about"](""))

    asked = ("verdict", "edits", "snapshot")
    return Starlette(
        routes=[
            Route("/", index),
            Route("/api/about", introduce),
            *(Route(f"/api/{name}", worker.answering(known[name]), methods=["POST"]) for name in asked),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(_Guard)],
        exception_handlers={HTTPException: _refuse, InterpError: _explain, Exception: _fail},
        lifespan=lifespan,
    )


def serve(
    judge: Judge,
    *,
    port: int = 8765,
    baseline: Baseline = "mean",
    budget: int = 32,
    text: str = "",
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the probe until Ctrl+C. `ready` gets the address; port 0 takes any free one.

    Raises ConfigError where the port cannot be had.
    """
    with _listening(port) as listening:
        made = app(judge, baseline=baseline, budget=budget, text=text)
        settings = uvicorn.Config(
            made, log_level="warning", access_log=False, ws="none", server_header=False, timeout_graceful_shutdown=1
        )
        ready(f"http://{HOST}:{listening.getsockname()[1]}")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listening])


def _listening(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((HOST, port))
        made.listen()
    except (OSError, OverflowError) as error:
        made.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is taken" if taken else f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(f"port {port} {why}; choose another one, or 0 for any free one") from None
    return made


class _Worker:
    """One thread for the model, and a queue before it from which superseded requests fall out."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.thread = ThreadPoolExecutor(1, "probe")
        self.turn = asyncio.Lock()

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)

    def answering(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        """A handler that reads a text, waits for its turn and carries out the work."""

        async def handle(request: Request) -> Response:
            try:
                async with asyncio.timeout(self.patience):
                    text = await _text(request)
                    async with self.turn:
                        if await request.is_disconnected():
                            return Response(status_code=499)  # nobody reads it
                        # A thread cannot be stopped: after the time limit it ends what it does before the next begins.
                        return JSONResponse(await asyncio.wrap_future(self.thread.submit(work, text)))
            except TimeoutError:
                message = f"no answer within {self.patience:g} s; shorten the prompt or take a smaller model"
                raise HTTPException(503, message) from None
            except ClientDisconnect:
                return Response(status_code=499)

        return handle


async def _text(request: Request) -> str:
    """The text in the body of a request."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LIMIT:
            raise HTTPException(413, f"the request is larger than {LIMIT // 1024} KB; shorten the prompt")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, 'the request is not JSON; send {"text": "..."}') from None
    if not isinstance(content, dict) or set(content) != {"text"} or not isinstance(content["text"], str):
        raise HTTPException(400, 'the request has no text alone that is a string; send {"text": "..."}')
    return content["text"]


class _Guard:
    """Refuses what does not come from this page on this machine, and gives every answer its headers."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = _refusal(scope["method"], Headers(scope=scope), (scope.get("server") or (HOST, None))[1])
        answer = self.inner if refused is None else JSONResponse({"error": refused[1]}, refused[0])
        await answer(scope, receive, send_with_headers)


def _refusal(method: str, headers: Headers, port: int | None) -> tuple[int, str] | None:
    """Status and reason for which a request is not let in."""
    host = headers.get("host", "")
    if host not in [f"{name}:{port}" for name in NAMES] and not (port == 80 and host in NAMES):
        return 403, f"the page is at http://{HOST}:{port} and under no other name"
    if headers.get("origin", f"http://{host}") != f"http://{host}":
        return 403, "the request comes from another page"
    if method == "POST":
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "the request must be application/json"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:12]) > LIMIT:
            return 413, f"the request is larger than {LIMIT // 1024} KB; shorten the prompt"
    return None


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _explain(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _fail(_: Request, error: Exception) -> Response:
    """What nobody foresaw: one line for the page; the trace is in the terminal."""
    return JSONResponse({"error": f"the model failed ({type(error).__name__}); see the terminal"}, 500, HEADERS)
