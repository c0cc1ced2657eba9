"""The page of the keys: a frame in Flower's look, filled by its script from the admin endpoints."""

import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path

from flower.views import BaseHandler
from tornado.web import StaticFileHandler, authenticated

STATIC = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src "
    "'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def version() -> str:
    """A folder's name that changes with any static file, so that browsers fetch all anew, imported modules as well."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


class Page(BaseHandler):
    """`/keys`: holds no data of its own.

    The script asks the endpoints, which know who may see them.
    """

    @authenticated
    def get(self) -> None:
        """Show the page, or, where nobody can log in, how to change that."""
        guarded = self.application.doors.people
        if not guarded:
            self.set_status(403)
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Cache-Control", "no-store")
        self.render(
            "keys.html",
            guarded=guarded,
            read_only=bool(self.application.options.read_only),
            version=version(),
        )


class Static(StaticFileHandler):
    """Our scripts and style; they hold nothing secret."""

    def get_cache_time(self, path: str, modified: datetime | None, mime_type: str) -> int:  # noqa: ARG002 - tornado's
        """Let browsers keep them: the next version has another address."""
        return int(self.CACHE_MAX_AGE)
