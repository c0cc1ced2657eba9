"""Models of the arguments of `tasks.admin`, the tasks by which operators reach the workers."""

from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from config.services import SERVICES
from worker.arguments.base import Arguments, one_of
from worker.deadletters import KINDS, OWNERS, Filter

MOST_QUOTED: Final = 10_000_000
"""The largest number of jobs, or of tokens for each job, in a quote."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of plain text")
    return text


_By = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)] | None


class NoArguments(Arguments):
    """The arguments of `tasks.admin.key_status`, which takes none."""


class ResetArguments(Arguments):
    """The arguments of `tasks.admin.reset_keys`."""

    service: Annotated[str, one_of(SERVICES)] | None = None
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    include_disabled: bool = False
    by: _By = None


_JobId = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]


class CancelArguments(Arguments):
    """The arguments of `tasks.admin.cancel`."""

    id: _JobId | Annotated[list[_JobId], Field(min_length=1, max_length=1_000)]
    by: _By = None


class PlaceArguments(Arguments):
    """The arguments of `tasks.admin.place`."""

    id: _JobId


class QuoteArguments(Arguments):
    """The arguments of `tasks.admin.quote`."""

    service: Annotated[str, one_of(SERVICES)]
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    jobs: Annotated[int, Field(ge=1, le=MOST_QUOTED)] = 1
    tokens: Annotated[int, Field(ge=1, le=MOST_QUOTED)] | None = None


class DeadLetterArguments(Arguments):
    """The arguments that select dead letters."""

    service: Annotated[str, one_of(OWNERS)] | None = None
    task: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    kind: Annotated[str, one_of(KINDS)] | None = None
    before: Annotated[int, Field(ge=1, lt=10**15)] | None = None

    def filter(self) -> Filter:
        """Return the store's filter for this selection."""
        return Filter(self.service, self.task, self.kind, self.before)


class ListArguments(DeadLetterArguments):
    """The arguments of `tasks.admin.dead_letters`."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = 50


class ReplayArguments(DeadLetterArguments):
    """The arguments of `tasks.admin.replay`."""

    id: Annotated[str, Field(pattern=r"^[!-~]{1,200}$")] | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    force: bool = False
    by: _By = None

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        by_kind = any((self.service, self.task, self.kind))
        if self.id is not None and by_kind:
            raise ValueError("give either id (and before), or service, task, kind and before")
        if self.id is None and not by_kind and not self.before:
            raise ValueError("give id, or at least one of service, task, kind and before")
        return self
