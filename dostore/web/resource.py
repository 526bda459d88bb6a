"""Which resource a path names, and what becomes of errors: the only place that answers them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from dostore.errors import (
    ClientGone,
    DostoreError,
    MethodNotAllowed,
    NoSpace,
    NotFound,
    RangeNotSatisfiable,
)
from dostore.web.passing import PassOn, pass_on
from dostore.web.problem import CONTENT_TYPE, RETRY_AFTER_S, problem
from dostore.web.request import Request

#: Takes a request and what its path has after the resource's own, still percent-escaped.
Method = Callable[[Request, bytes], Awaitable[None]]

_log = Logger()


@frozen(slots=True)
class Resource:
    """What can be done with one path, or with all below one.

    :ivar route: what metrics call it.
    :ivar methods: by name. A HEAD is answered by the method that answers the GET.
    """

    route: str
    methods: Mapping[bytes, Method]


class Router:
    """Calls the method that a request asks for.

    :param exact: resources by their whole path.
    :param below: resources by the first segment of their paths, ``/objects/`` for instance.
    """

    def __init__(self, exact: Mapping[bytes, Resource], below: Mapping[bytes, Resource]) -> None:
        self._exact = exact
        self._below = below

    async def handle(self, request: Request) -> None:
        """Answer a request, whatever happens."""
        try:
            resource, rest = self._find(request.path)
            request.route = resource.route
            method = resource.methods.get(request.method)
            if method is None:
                raise _not_allowed(resource)
            await method(request, rest)
        except CancelledError:
            raise
        except PassOn:
            pass_on(request.channel, request, late=True)
        except ClientGone:
            request.abort()
        except DostoreError as error:
            answer_error(request, error)
        except Exception:
            answer_bug(request)

    def _find(self, path: bytes) -> tuple[Resource, bytes]:
        resource = self._exact.get(path)
        if resource is not None:
            return resource, b""
        end = path.find(b"/", 1) + 1
        resource = self._below.get(path[:end])
        if resource is None:
            raise NotFound("There is nothing at this path. Objects are below /objects/.")
        return resource, path[end:]


def _not_allowed(resource: Resource) -> MethodNotAllowed:
    allowed = tuple(sorted(method.decode("ascii") for method in resource.methods))
    return MethodNotAllowed(f"This takes {', '.join(allowed)} only.", allowed=allowed)


def answer_error(request: Request, error: DostoreError) -> None:
    """Tell the client; or, when an answer has begun, cut it short."""
    # That drives are full is told when they fill up, and not again by each who finds them so.
    if error.status >= 500 and not (error.retryable or isinstance(error, NoSpace)):
        _log.error(
            "{method} on {route}: {title}: {detail}",
            method=request.method.decode("ascii"),
            route=request.route,
            title=error.title,
            detail=error.detail,
        )
    if request.begun:
        request.abort()
        return
    headers = [CONTENT_TYPE]
    if error.retryable:
        headers.append((b"Retry-After", b"%d" % RETRY_AFTER_S))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"Allow", ", ".join(error.allowed).encode("ascii")))
    if isinstance(error, RangeNotSatisfiable):
        headers.append((b"Content-Range", b"bytes */%d" % error.size))
    request.respond(error.status, headers, problem(error.status, error.title, error.detail))


def answer_bug(request: Request) -> None:
    """Log the exception that is being handled and tell the client how the log calls it."""
    request_id = secrets.token_hex(8)
    _log.failure(
        "{method} on {route} failed, request {request_id}",
        method=request.method.decode("ascii"),
        route=request.route,
        request_id=request_id,
    )
    if request.begun:
        request.abort()
        return
    detail = f"The server failed. Its log says why, at request {request_id}."
    request.respond(500, [CONTENT_TYPE], problem(500, "Internal error", detail))
