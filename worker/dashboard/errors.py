"""Why a request to the admin endpoints is refused, with the status that says so."""

from tornado.web import HTTPError


class Refusal(HTTPError):  # noqa: N818 - it answers; nothing went wrong here
    """A request that is not served.

    Args:
        status: The HTTP status.
        code: One word for programs, such as `unknown_service`.
        message: A sentence for people; quotes nothing secret.
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
"""The word for a status where it was not we who refused."""
