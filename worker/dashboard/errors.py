"""The error answers of the admin endpoints."""

from tornado.web import HTTPError


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


CODES = {
    400: "bad_request",
    401: "login_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    500: "internal_error",
}
"""The code of a status that Tornado or Flower set."""
