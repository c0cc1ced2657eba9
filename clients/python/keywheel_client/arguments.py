"""The arguments of the tasks, for type checkers. The worker checks the values."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

JsonObject = Mapping[str, Any]
Recipients = str | Sequence[str]


class CompletionArguments(TypedDict, total=False):
    """The arguments of `tasks.ai.complete`, with the same meaning as in Groq's API.

    Give either `prompt` or `messages`. A message may also be the result of an earlier completion.
    With `stream` the answer can be read while it arrives.
    """

    messages: Sequence[JsonObject]
    prompt: str
    model: str
    models: Sequence[str]
    temperature: float
    top_p: float
    max_tokens: int
    max_completion_tokens: int
    frequency_penalty: float
    presence_penalty: float
    seed: int
    stop: str | Sequence[str]
    n: Literal[1]
    response_format: JsonObject
    tools: Sequence[JsonObject]
    tool_choice: str | JsonObject
    parallel_tool_calls: bool
    reasoning_effort: str
    reasoning_format: str
    include_reasoning: bool
    service_tier: Literal["auto", "on_demand", "flex", "performance"]
    user: str
    documents: Sequence[JsonObject]
    citation_options: Literal["enabled", "disabled"]
    compound_custom: JsonObject
    search_settings: JsonObject
    include_domains: Sequence[str]
    exclude_domains: Sequence[str]
    disable_tool_validation: bool
    functions: Sequence[JsonObject]
    function_call: str | JsonObject
    logit_bias: Mapping[str, int]
    logprobs: bool
    top_logprobs: int
    metadata: Mapping[str, str]
    store: bool
    stream: bool
    dedupe_key: str
    notify: str
    deadline_s: float


class Attachment(TypedDict, total=False):
    """One attachment: `content` (bytes, or Base64) or `path` (a URL that Resend fetches)."""

    filename: str
    content: bytes | str
    path: str
    content_type: str
    content_id: str
    inline_content_id: str


class Tag(TypedDict, total=False):
    """A name and a value for the sender's own use."""

    name: str
    value: str


class Template(TypedDict, total=False):
    """A template that is published at Resend, and the values of its variables."""

    id: str
    variables: Mapping[str, str | float]


class EmailArguments(TypedDict, total=False):
    """The arguments of `tasks.email.send`, with the same meaning as in Resend's API.

    `from_` is the email's `from`, which is a keyword in Python.
    """

    from_: str
    to: Recipients
    cc: Recipients
    bcc: Recipients
    reply_to: Recipients
    subject: str
    html: str
    text: str
    template: Template
    attachments: Sequence[Attachment]
    tags: Sequence[Tag]
    headers: Mapping[str, str]
    scheduled_at: str | datetime
    topic_id: str
    idempotency_key: str
    dedupe_key: str
    notify: str
    deadline_s: float
