"""Clients for your own tasks and programs, which call providers with the keys of the pool.

    from worker.clients import groq, once, resend

    @app.task
    async def write(topic: str) -> None:
        answer = await groq.chat.completions.create(model="…", messages=[…])
        text = answer.choices[0].message.content
        await resend.send(to="ann@example.net", subject=topic, text=text)

`groq` is an `AsyncGroq` of Groq's own SDK. With `RotatingTransport`, any other SDK that takes an
httpx client uses the pool's keys, too. `groq_sync`, `resend_sync` and `once_sync` are for tasks
that are plain functions. Nothing is read or opened before the first use.
"""

from typing import TYPE_CHECKING, Any

from worker.clients.emails import EmailClient, SyncEmailClient
from worker.clients.once import once, once_sync
from worker.clients.sync import SyncRotatingTransport
from worker.clients.transport import RotatingTransport

if TYPE_CHECKING:
    from groq import AsyncGroq, Groq

    groq: AsyncGroq
    groq_sync: Groq

__all__ = [
    "EmailClient",
    "RotatingTransport",
    "SyncEmailClient",
    "SyncRotatingTransport",
    "groq",
    "groq_client",
    "groq_sync",
    "groq_sync_client",
    "once",
    "once_sync",
    "resend",
    "resend_sync",
]

_UNUSED_KEY = "chosen-for-each-request"

resend = EmailClient()
"""Sends each email once, from a coroutine."""

resend_sync = SyncEmailClient()
"""Sends each email once, from a plain function."""


def groq_client(*, longest_wait_s: float | None = None, **options: Any) -> "AsyncGroq":
    """Make an `AsyncGroq` whose requests use keys of the pool.

    Args:
        longest_wait_s: As for `RotatingTransport`.
        **options: Further arguments of `AsyncGroq`. By default the SDK itself retries nothing.
    """
    import groq as sdk  # noqa: PLC0415 - the SDK takes 100 ms, and not every program needs it
    import httpx  # noqa: PLC0415

    transport = RotatingTransport(longest_wait_s=longest_wait_s)
    http = httpx.AsyncClient(transport=transport, timeout=None)  # noqa: S113 - the transport has one
    return sdk.AsyncGroq(api_key=_UNUSED_KEY, http_client=http, **{"max_retries": 0} | options)


def groq_sync_client(*, longest_wait_s: float | None = None, **options: Any) -> "Groq":
    """Make a `Groq` whose requests use keys of the pool, for plain functions.

    Args:
        longest_wait_s: As for `RotatingTransport`.
        **options: Further arguments of `Groq`. By default the SDK itself retries nothing.
    """
    import groq as sdk  # noqa: PLC0415
    import httpx  # noqa: PLC0415

    transport = SyncRotatingTransport(longest_wait_s=longest_wait_s)
    http = httpx.Client(transport=transport, timeout=None)  # noqa: S113 - the transport has one
    return sdk.Groq(api_key=_UNUSED_KEY, http_client=http, **{"max_retries": 0} | options)


def __getattr__(name: str) -> Any:
    if name == "groq":
        globals()["groq"] = groq_client()
    elif name == "groq_sync":
        globals()["groq_sync"] = groq_sync_client()
    else:
        raise AttributeError(name)
    return globals()[name]
