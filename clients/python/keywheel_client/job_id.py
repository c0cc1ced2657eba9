"""A job's id, which knows what the job's result looks like."""

from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")


class JobId(str, Generic[ResultT]):
    """The id of a job: a text, to store and to compare like any other.

    Type checkers know from it what `result` returns.
    """

    __slots__ = ()
