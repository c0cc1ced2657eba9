"""Requests to every address of ours with every role; new addresses are included automatically."""

import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.dashboard.dashboard_site import BEARER, LOGIN, Serve, Site
from worker.dashboard import metrics, page, stock_pages
from worker.dashboard.application import HANDLERS
from worker.dashboard.handlers import AdminHandler, ChangeHandler

VIEWER = ("vic", "canary-password-9913")
FOR_ALL = {page.Static, metrics.Metrics}
"""Handlers without a login, for browsers and Prometheus: they show no secret."""
FOR_PEOPLE = {page.Page, page.JobPage, stock_pages.TaskPage, stock_pages.WorkerPage}
"""Pages: a login opens them, the token of programs does not."""
REFUSED = {401, 403}


@dataclass(frozen=True)
class Role:
    """A role. The flags say what it may use: pages, reads by the API, and changes."""

    options: dict[str, Any]
    pages: bool = False
    looks: bool = False
    changes: bool = False


ROLES = {
    "nobody": Role({}),
    "a wrong password": Role({"auth": (LOGIN[0], "wrong")}),
    "a wrong token": Role({"headers": {"Authorization": f"{BEARER['Authorization']}x"}}),
    "a viewer": Role({"auth": VIEWER}, pages=True, looks=True),
    "an admin": Role({"auth": LOGIN}, pages=True, looks=True, changes=True),
    "the token": Role({"headers": BEARER}, looks=True, changes=True),
}


def address_of(rule: Any) -> str:
    pattern = rule.regex.pattern.rstrip("$").replace("[0-9a-f]{10}", "0" * 10)
    return re.sub(r"\(.*?\)", "some", pattern)


async def response_to(site: Site, rule: Any, method: str, role: Role) -> tuple[int, str]:
    """Return the status and the API's error. The body is never valid, so nothing is changed."""
    body = {"json": {"no_such_field": 1}} if method == "POST" else {}
    async with site.client.stream(method, address_of(rule), **role.options, **body) as answer:
        content_type = answer.headers.get("Content-Type", "")
        # A stream of events does not end.
        if answer.status_code == 200 or "json" not in content_type:
            return answer.status_code, ""
        await answer.aread()
        return answer.status_code, answer.json()["error"]


def is_open_as_it_should_be(handler: type[Any], role: Role, status: int, error: str) -> bool:
    if handler in FOR_ALL:
        return status not in REFUSED
    if handler in FOR_PEOPLE:
        return (status not in REFUSED) is role.pages
    if not issubclass(handler, AdminHandler):
        pytest.fail(f"say in this file who may ask {handler.__name__}")
    if not role.looks:
        return (status, error) == (401, "login_required")
    if not issubclass(handler, ChangeHandler):
        return status not in {*REFUSED, 500}
    return (status, error) == ((400, "unknown_field") if role.changes else (403, "may_only_look"))


async def test_each_address_is_open_to_the_roles_that_may_use_it_and_to_no_other(
    serve: Serve,
) -> None:
    logins = tuple(":".join(login) for login in (LOGIN, VIEWER))
    site = await serve(basic_auth=logins, environ={"ADMIN_USERS": LOGIN[0]}, groq=1, resend=0)
    wrong = []
    for rule in HANDLERS:
        method = "POST" if issubclass(rule.handler_class, ChangeHandler) else "GET"
        for name, role in ROLES.items():
            status, error = await response_to(site, rule, method, role)
            if not is_open_as_it_should_be(rule.handler_class, role, status, error):
                wrong.append((name, address_of(rule), status, error))
    assert not wrong
