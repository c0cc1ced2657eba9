"""Defines the error answers of the admin endpoints."""

from collections.abc import Collection

from tornado.web import HTTPError

from config.services import SERVICES


class ApiError(HTTPError):
    """A request is rejected.

    Args:
        status: The HTTP status.
        code: One word for programs, such as `unknown_service`.
        message: A sentence for people; it quotes nothing secret.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status)
        self.code = code
        self.message = message


class BadRequest(ApiError):  # noqa: N818 - as HTTP calls it
    """A request has a missing or invalid value.

    Args:
        message: A sentence for people, which states the valid values.
    """

    def __init__(self, message: str) -> None:
        super().__init__(400, "bad_request", message)


class RedisUnreachable(ApiError):  # noqa: N818 - the name already states the problem
    """Redis does not answer. Endpoints need not catch this error.

    Args:
        why: The problem, as a clause. It names the type of the error, but not its message.
    """

    def __init__(self, why: str) -> None:
        super().__init__(503, "redis_unreachable", f"{why}.")
        self.why = why

    def __str__(self) -> str:
        return self.why


CODES = {
    400: "bad_request",
    401: "login_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    500: "internal_error",
}
"""The codes for statuses that Tornado or Flower set."""


def check_service(name: str, known: Collection[str] = SERVICES) -> None:
    """Reject the name of a service that does not exist.

    Raises:
        ApiError: 404.
    """
    if name not in known:
        sentence = f"There is no such service; choose one of: {', '.join(known)}."
        raise ApiError(404, "unknown_service", sentence)
