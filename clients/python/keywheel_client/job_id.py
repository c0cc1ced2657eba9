"""The id of a job, whose type includes the type of the job's result."""

from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")


class JobId(str, Generic[ResultT]):
    """The id of a job: an ordinary string.

    Type checkers derive from it what `result` returns.
    """

    __slots__ = ()
