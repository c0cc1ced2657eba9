"""Reads the settings of this process once from its environment."""

import logging
from collections.abc import Mapping
from functools import cache

from config.environment import look_up, read_environment, unreadable_lines
from config.names import Known, names_without_effect
from config.settings import SECRET_FIELDS, Settings, settings_from, variable_of, variables

_log = logging.getLogger(__name__)


def notices(environ: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """Return the warnings about an environment that works, one sentence each.

    Args:
        environ: The merged environment.
        settings: The settings that were read from it.
    """
    files = {variable_of(field) for field in SECRET_FIELDS}
    known = Known(settings=frozenset(variables().values()), files=frozenset(files))
    sentences = list(names_without_effect(environ, known))
    sentences += [
        f"{found.variable} {found.note}."
        for name in sorted(files)
        if (found := look_up(environ, name)).note
    ]
    if settings.show_content:
        sentences.append(
            "KEYWHEEL_SHOW_CONTENT is on: prompts and mail bodies are visible in Flower."
        )
    return tuple(sentences)


@cache
def get_settings() -> Settings:
    """Return the settings of this process. The first call reads them and logs the notices.

    Raises:
        SettingsError: A variable is wrong; the error has a sentence for each wrong variable.
    """
    environ = read_environment()
    settings = settings_from(environ)
    for sentence in filter(None, (unreadable_lines(), *notices(environ, settings))):
        _log.warning(sentence)
    return settings


def reload_settings() -> Settings:
    """Read the settings again. Objects that hold the old settings keep them.

    Raises:
        SettingsError: A variable is wrong; the next call of `get_settings` reads again.
    """
    get_settings.cache_clear()
    return get_settings()
