# ruff: noqa: INP001 - a script beside the other scripts, not a package
"""Writes `docs/settings.md`, `.env.example` and `docs/schemas/` from the code.

`make docs` runs this script. The first two come from the fields of `config/settings.py`, the schemas from the
models of the tasks' arguments and results.

A field's name, default and unit come from the class itself. The text below a field, and the comment
above the first field of a section, come from the source file, where programs cannot see them.
"""

import ast
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pydantic import TypeAdapter  # noqa: E402
from pydantic.json_schema import GenerateJsonSchema  # noqa: E402

from config import service_settings, settings  # noqa: E402 - found by the line above
from config.fields import Unit  # noqa: E402
from config.service_settings import ServiceSettings, variables_of  # noqa: E402
from config.services import SERVICES, Service  # noqa: E402
from config.settings import SECRET_FIELDS, Settings, variable_of, variables  # noqa: E402
from config.urls import SecretUrl  # noqa: E402
from worker import results  # noqa: E402
from worker.arguments import admin, completion, email  # noqa: E402

_WIDTH = 100

_PAGE_HEAD = """\
# Settings

`make docs` writes this page from `config/settings.py`.

A process reads its settings once, at its start, from its environment and from the file `.env` in its working folder;
the environment wins. A blank value counts as unset. A wrong value stops the start with a sentence that names the
variable and says what to change, and a name that looks like a misspelt setting causes a warning.

Each secret may come from a file instead: `GROQ_API_KEY_2_FILE=/run/secrets/groq2`. That works for the API keys and for
{files}.

## API keys

At least one key of one service is needed. Each service takes up to ten keys, and gaps in the numbers are fine.

| variable | unit | meaning |
| --- | --- | --- |
| `GROQ_API_KEY`, `GROQ_API_KEY_2` … `_10` | key | Keys of Groq. |
| `RESEND_API_KEY`, `RESEND_API_KEY_2` … `_10` | key | Keys of Resend. |
| `GROQ_ACCOUNT`, `GROQ_ACCOUNT_2` … | name | The Groq organisation that a key belongs to. Keys with the same name \
share their limits. Optional: workers learn it from Groq's refusals. |
| `RESEND_ACCOUNT`, `RESEND_ACCOUNT_2` … | name | The Resend team that a key belongs to. |
| `RESEND_FROM`, `RESEND_FROM_2` … | address | The from address for emails that name none, such as \
`News <news@example.com>`. A domain belongs to one Resend team, so each team needs an address of its own. |

A blank value, a placeholder and a second copy of a key are skipped with a warning that names the variable. A wrong
account name or from address stops the start, with a sentence that shows the right form. The value of a key is never
shown: logs show its label, such as `gsk_abc123...`. Changed keys also take effect without a restart, by
`celery -A worker keys reload`.

The limits of your keys are not among the settings: the workers learn them from the providers' headers and refusals.
"""

_EXAMPLE_HEAD = """\
# Keywheel's settings, written by `make docs`. Copy this file to .env, then set your keys.
# A setting in a line that starts with # has its default.
#
# The process environment wins over .env. Each secret may instead come from a file, such as
# /run/secrets/groq by GROQ_API_KEY_FILE. A name that ends in _S counts seconds. Changes take effect
# at the next start; changed API keys also by `celery -A worker keys reload`.

# --- API keys -------------------------------------------------------------------------------------
# Set at least one key. A service may have up to ten keys: NAME, NAME_2 … NAME_10. Numbers may be
# left out. Or name files with the keys: GROQ_API_KEY_FILE, GROQ_API_KEY_2_FILE …
GROQ_API_KEY=
# GROQ_API_KEY_2=
# GROQ_API_KEY_3=
RESEND_API_KEY=
# RESEND_API_KEY_2=
# RESEND_API_KEY_3=

# The account that a key belongs to: a Groq organisation, a Resend team. Keys with the same name
# share their limits. Optional: workers learn Groq's organisations from its refusals.
# GROQ_ACCOUNT=
# GROQ_ACCOUNT_2=
# RESEND_ACCOUNT=
# RESEND_ACCOUNT_2=

# The from address for emails that name none (`a@example.com` or `Name <a@example.com>`). A domain
# belongs to one Resend team, so each team needs an address of its own.
# RESEND_FROM=
# RESEND_FROM_2=

# docker compose gives this file to its containers, which must be able to read it (chmod 644).
# They take the address of Redis from secrets/redis-url instead.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting as the pages show it.

    Attributes:
        section: The heading that it stands under.
        field: Its field of `Settings`, or of `ServiceSettings`.
        meaning: What it does, in sentences, as Markdown.
        service: The service that has this setting; None if the setting belongs to no service.
    """

    section: str
    field: str
    meaning: str
    service: Service | None = None

    @property
    def variable(self) -> str:
        """The environment variable."""
        return variables_of(self.service)[self.field] if self.service else variable_of(self.field)

    @property
    def _info(self) -> Any:
        return (ServiceSettings if self.service else Settings).model_fields[self.field]

    @property
    def default(self) -> str:
        """The default as a person would write it into `.env`; blank if there is none."""
        if self._info.default_factory is not None:
            return ""
        holder: Any = Settings().services[self.service.name] if self.service else Settings()
        value: Any = getattr(holder, self.field)
        if isinstance(value, SecretUrl):
            value = value.get_secret_value()
        if value is None or value == ():
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:g}" if isinstance(value, float) else str(value)

    @property
    def shown_default(self) -> str:
        """The default as the table shows it."""
        if self._info.default_factory is not None:
            return "`REDIS_URL`"
        return f"`{self.default}`" if self.default else "none"

    @property
    def unit(self) -> str:
        """The unit of the setting, or the list of words that it accepts."""
        info = self._info
        units = [item.name for item in info.metadata if isinstance(item, Unit)]
        if units:
            return units[-1]
        if info.annotation is bool:
            return "`true` or `false`"
        words = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
        if not words:
            raise TypeError(f"{self.field} needs a Unit: see config/fields.py")
        *others, last = (f"`{word}`" for word in words)
        return f"{', '.join(others)} or {last}"


def entries() -> Iterator[Entry]:
    """Read the settings in the order of their class; settings of services are grouped by service."""
    of_services = [
        entry for entry in _fields_of(service_settings, ServiceSettings) if entry.meaning
    ]
    set_by_variables = {place[0] for place in variables()}
    for entry in _fields_of(settings, Settings):
        if entry.field != "services":
            if entry.field in set_by_variables:
                yield entry
            continue
        for service in SERVICES.values():
            for one in of_services:
                if one.field in variables_of(service):
                    yield Entry(entry.section, one.field, _meaning_for(service, one), service)


def _meaning_for(service: Service, entry: Entry) -> str:
    *others, last = (f"`{name}`" for name in service.limit_dimensions)
    text = entry.meaning.format(
        title=service.title,
        example=",".join(
            f"{name}={n}" for name, n in zip(service.limit_dimensions, (30, 1000), strict=False)
        ),
        dimensions=f"{', '.join(others)} and {last}" if others else last,
    )
    return f"{text} {service.notes.get(entry.field, '')}".strip()


def _fields_of(module: Any, model: type[Any]) -> Iterator[Entry]:
    """Read the fields of a model, each with the text below it.

    Raises:
        TypeError: A field has no text below it.
    """
    source = Path(str(module.__file__)).read_text("utf-8")
    [body] = [
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == model.__name__
    ]
    headings = {
        number: found[1]
        for number, line in enumerate(source.splitlines(), start=1)
        if (found := re.fullmatch(r"    # (\w[\w ]*)", line))
    }
    for node, below in itertools.pairwise(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        match below:
            case ast.Expr(value=ast.Constant(value=str(meaning))):
                above = max((number for number in headings if number < node.lineno), default=0)
                section = headings.get(above, "")
                yield Entry(section, node.target.id, " ".join(meaning.split()))
            case _ if node.target.id == "name":
                continue  # the name of the service, which is not a setting
            case _:
                raise TypeError(f"{node.target.id} needs a text below it that says what it does")


def settings_page() -> str:
    """Write `docs/settings.md`."""
    files = [f"`{variable_of(field)}`" for field in Settings.model_fields if field in SECRET_FIELDS]
    head = _PAGE_HEAD.format(files=f"{', '.join(files[:-1])} and {files[-1]}")
    paragraphs = head.split("\n\n")
    lines = ["\n\n".join(part if part.startswith("|") else _wrapped(part) for part in paragraphs)]
    section = ""
    for entry in entries():
        if entry.section != section:
            section = entry.section
            lines += [
                "",
                f"## {section}",
                "",
                "| variable | default | unit | meaning |",
                "| --- | --- | --- | --- |",
            ]
        cells = (f"`{entry.variable}`", entry.shown_default, entry.unit, entry.meaning)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def example() -> str:
    """Write `.env.example`."""
    lines, section = [_EXAMPLE_HEAD.rstrip("\n")], ""
    for entry in entries():
        if entry.section != section:
            section = entry.section
            lines += ["", f"# --- {section} ".ljust(_WIDTH - 1, "-")]
        plain = entry.meaning.replace("`", "").replace("<https", "https").replace(">.", "")
        lines += textwrap.wrap(
            plain, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        mark = "" if entry.field == "redis_url" else "# "
        lines.append(f"{mark}{entry.variable}={entry.default}")
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False))


TASKS: dict[str, tuple[Any, Any]] = {
    "tasks.ai.complete": (completion.CompletionArguments, results.CompletionResult),
    "tasks.email.send": (email.EmailArguments, results.EmailResult),
    "tasks.admin.key_status": (admin.NoArguments, results.KeyStatusResult),
    "tasks.admin.reset_keys": (admin.ResetArguments, results.ResetResult),
    "tasks.admin.place": (admin.PlaceArguments, results.PlaceResult),
    "tasks.admin.quote": (admin.QuoteArguments, results.QuoteResult),
    "tasks.admin.cancel": (admin.CancelArguments, results.CancelResult),
}
"""The tasks that the clients call, each with the types of its arguments and its result."""


class _Untitled(GenerateJsonSchema):
    """Generates schemas without the titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def schemas() -> dict[str, str]:
    """Write the JSON Schemas of arguments and results, by file name."""
    return {
        f"{task}.{part}.json": _schema(f"{task}: {part}", model)
        for task, models in TASKS.items()
        for part, model in zip(("arguments", "result"), models, strict=True)
    }


def _schema(title: str, model: Any) -> str:
    schema = TypeAdapter(model).json_schema(by_alias=True, schema_generator=_Untitled)
    head = {"$schema": GenerateJsonSchema.schema_dialect, "title": title}
    return json.dumps(head | {k: v for k, v in schema.items() if k != "title"}, indent=2) + "\n"


def main() -> None:
    """Write all files."""
    for name, text in schemas().items():
        (ROOT / "docs" / "schemas" / name).write_text(text, "utf-8")
    (ROOT / "docs" / "settings.md").write_text(settings_page(), "utf-8")
    (ROOT / ".env.example").write_text(example(), "utf-8")


if __name__ == "__main__":
    main()
