"""Reports unexpected errors of jobs to Sentry, by its Celery integration."""

from typing import Any

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration

_HIDDEN = "(hidden: an error's message may quote a prompt or a mail)"


def start_reports(**options: Any) -> None:
    """Start Sentry with `SENTRY_DSN` and its other variables, unless the application has done so.

    Args:
        **options: Further options of `sentry_sdk.init`.
    """
    if sentry_sdk.get_client().is_active():
        return
    sentry_sdk.init(
        # Other integrations would report log records and Redis commands before they are redacted.
        # Personal data is off by default (the option `send_default_pii` is deprecated).
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[CeleryIntegration(), DedupeIntegration()],
        include_local_variables=False,
        max_breadcrumbs=0,
        before_send=without_content,
        **options,
    )


def without_content(event: Any, _: Any) -> Any:
    """Remove the message, arguments and local variables of an error; keep its type and place."""
    for error in (event.get("exception") or {}).get("values") or ():
        error["value"] = _HIDDEN
        for frame in (error.get("stacktrace") or {}).get("frames") or ():
            frame.pop("vars", None)
    for name in ("extra", "request", "breadcrumbs", "logentry", "message"):
        event.pop(name, None)
    return event
