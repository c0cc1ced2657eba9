"""Keywheel's client for Python: enqueue jobs, follow them, cancel them."""

from keywheel_client.arguments import (
    Attachment,
    CompletionArguments,
    EmailArguments,
    Tag,
    Template,
)
from keywheel_client.async_client import AsyncKeywheel
from keywheel_client.client import Keywheel
from keywheel_client.errors import (
    JobCancelled,
    JobFailed,
    KeywheelError,
    ResultTimeout,
    Unavailable,
    UnreadableRecord,
)
from keywheel_client.events import StreamEvent
from keywheel_client.job_id import JobId
from keywheel_client.pipeline import Pipeline
from keywheel_client.quotes import Quote
from keywheel_client.results import (
    Block,
    CompletionResult,
    EmailResult,
    KeyStatus,
    ResetDone,
    ServiceStatus,
    ToolCall,
    Usage,
)
from keywheel_client.status import Status

__all__ = [
    "AsyncKeywheel",
    "Attachment",
    "Block",
    "CompletionArguments",
    "CompletionResult",
    "EmailArguments",
    "EmailResult",
    "JobCancelled",
    "JobFailed",
    "JobId",
    "KeyStatus",
    "Keywheel",
    "KeywheelError",
    "Pipeline",
    "Quote",
    "ResetDone",
    "ResultTimeout",
    "ServiceStatus",
    "Status",
    "StreamEvent",
    "Tag",
    "Template",
    "ToolCall",
    "Unavailable",
    "UnreadableRecord",
    "Usage",
]
