"""The worker: a Celery app, an asyncio pool for it, and the rotation of API keys.

`celery -A worker …` finds the app here. It is made at the first look, so that importing a part
needs no settings.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name not in {"app", "celery"}:
        raise AttributeError(name)
    from config.errors import SettingsError  # noqa: PLC0415 - the app is made lazily

    try:
        from worker.app import app  # noqa: PLC0415
    except SettingsError as exc:
        # The command line imports us: a person reads this, and a traceback would hide the sentence.
        raise SystemExit(f"keywheel cannot start.\n{exc}") from None
    return app
