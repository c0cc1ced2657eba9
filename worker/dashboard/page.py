"""Serves the pages Keys and Job: frames in Flower's style, which scripts fill with data."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from flower.views import BaseHandler
from tornado.web import StaticFileHandler, authenticated

from config.services import SERVICES
from worker.deadletters import OWNERS

_SERVICES = tuple(SERVICES.values())
STATIC = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src "
    "'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def version() -> str:
    """Return a folder name that changes whenever a static file changes.

    Browsers then fetch all files again, imported modules included.
    """
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def _names(names: Iterable[str]) -> str:
    return " ".join(names)


class _Frame(BaseHandler):
    def show(self, template: str, **values: Any) -> None:
        """Render a page without data, with status 403 if no login is configured."""
        has_login = self.application.auth_config.allows_people
        may_change = has_login and self.application.visitor(self.request).may_change
        if not has_login:
            self.set_status(403)
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cache-Control", "no-store")
        self.render(
            template,
            has_login=has_login,
            read_only=bool(self.application.options.read_only) or not may_change,
            may_change=may_change,
            version=version(),
            **values,
        )


class Page(_Frame):
    """`/keys`: a page without data.

    Its script gets the data from the admin endpoints, which authenticate each request.
    """

    @authenticated
    def get(self) -> None:
        """Show the page; if no login is configured, show how to configure one."""
        self.show(
            "keys.html",
            owners=OWNERS,
            sends_once=_names(service.name for service in _SERVICES if service.sends_once),
            names_accounts=_names(service.name for service in _SERVICES if service.names_accounts),
        )


class JobPage(_Frame):
    """`/keys/jobs/ID`: a page about one job, which a script fills with data."""

    @authenticated
    def get(self, job: str) -> None:
        """Show the page."""
        self.show("job.html", job=job)


class Static(StaticFileHandler):
    """Our scripts and styles; they hold nothing secret."""

    def get_cache_time(self, *_: Any) -> int:
        """Let browsers cache the files for a long time: a changed file has another address."""
        return int(self.CACHE_MAX_AGE)
