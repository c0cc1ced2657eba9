"""Model of an email's arguments, with the names and bounds of Resend's API."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from config.addresses import is_address
from config.api_key import ApiKey
from worker.arguments.base import Arguments, Deadline, KeyText, Text, matching
from worker.arguments.notification import NotifyUrl
from worker.errors import Deferred

_MOST_RECIPIENTS = 50
_ONE_LINE = matching(
    r"[^\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]*",
    "must not contain line breaks or control characters",
)
"""Allows no control character except the tab: a line break could add a header to the email."""
_OneLine = Annotated[Text, _ONE_LINE]
_Whole = Annotated[int, Strict()]
_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_TagText = Annotated[
    Text,
    matching(
        r"[A-Za-z0-9_-]{1,256}",
        "must be 1 to 256 letters and digits of ASCII, underscores or dashes",
    ),
]
_OF_THE_JOB = {"idempotency_key", "dedupe_key", "notify", "deadline_s"}
"""The arguments that are not part of the email itself."""
_WITHOUT_OFFSET = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?")
_NO_LINES = str.maketrans("", "", "\r\n")
_MOST_ATTACHED_BYTES = 40 * 1024 * 1024


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _object_if_empty(value: Any) -> Any:
    """Read an empty list as an empty object, because PHP writes both in the same way."""
    return {} if value == [] else value


def _instant(value: Any) -> Any:
    """Write a `datetime` as text; Celery's JSON keeps the datetimes of Python producers."""
    if not isinstance(value, datetime):
        return value
    if value.utcoffset() is None:
        raise ValueError("is a datetime without a time zone: give one, such as datetime.now(UTC)")
    return value.isoformat()


_MomentText = Annotated[str, Field(min_length=1, max_length=100)]
_Moment = Annotated[_MomentText, BeforeValidator(_instant, json_schema_input_type=_MomentText)]


def _in_utc(text: str) -> str:
    """Add UTC to an instant without an offset: Resend's documentation names no default zone.

    Other texts ("in 1 hour", "Friday at 3pm ET") are passed on to Resend.
    """
    if not _WITHOUT_OFFSET.fullmatch(text):
        return text
    try:
        return datetime.fromisoformat(text.upper()).replace(tzinfo=UTC).isoformat()
    except ValueError:  # a 31st of February, which Resend refuses
        return text


def _encoded(value: Any) -> Any:
    """Encode bytes, and join the lines into which many programs cut Base64.

    Node writes bytes into JSON as an object that contains a list of their values.
    """
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict) and value.keys() == {"type", "data"} and value["type"] == "Buffer":
        return value["data"] if isinstance(value["data"], list) else value
    has_lines = isinstance(value, str) and "\n" in value  # most texts have none, and may be large
    return _in_one_line(value) if has_lines else value


def _in_one_line(text: str) -> str:
    """Join lines of one length, a multiple of four; other texts stay, and are refused later."""
    widths = {len(line) for line in text.split()[:-1]}
    are_lines = len(widths) <= 1 and not any(width % 4 for width in widths)
    return text.translate(_NO_LINES) if are_lines else text


def _address(text: str) -> str:
    if not is_address(text.strip()):
        raise ValueError("is not an email address (name@example.com, or Name <name@example.com>)")
    return text.strip()


Address = Annotated[str, AfterValidator(_address)]
_Several = Annotated[list[Address], Field(min_length=1, max_length=_MOST_RECIPIENTS)]
Recipients = Annotated[
    _Several, BeforeValidator(_one_or_more, json_schema_input_type=Address | _Several)
]
_NoneIfEmpty = AfterValidator(lambda value: value or None)
"""Resend treats an empty list like an absent one, and its own SDK for Laravel sends it."""
_Any = Annotated[list[Address], Field(max_length=_MOST_RECIPIENTS)]
MoreRecipients = Annotated[
    Annotated[_Any, BeforeValidator(_one_or_more, json_schema_input_type=Address | _Any)] | None,
    _NoneIfEmpty,
]

_HeaderName = Annotated[Text, matching(r"[!-9;-~]+", "is not the name of a header")]
_Headers = Annotated[
    dict[_HeaderName, _OneLine],
    BeforeValidator(
        _object_if_empty,
        json_schema_input_type=dict[_HeaderName, _OneLine]
        | Annotated[list[Any], Field(max_length=0)],
    ),
]

_AnyVariables = dict[Text, Text | _Whole | _Number]
_Variables = Annotated[
    _AnyVariables,
    BeforeValidator(
        _object_if_empty,
        json_schema_input_type=_AnyVariables | Annotated[list[Any], Field(max_length=0)],
    ),
]


_Bytes = list[Annotated[int, Field(ge=0, le=255)]]


class NodeBuffer(Arguments):
    """Bytes in the form in which Node writes them into JSON."""

    type: Literal["Buffer"]
    data: _Bytes


class Attachment(Arguments):
    """One attachment.

    It has either `content` (Base64, bytes, or a list of byte values) or `path` (a URL that Resend
    fetches).
    """

    filename: Annotated[str, Field(min_length=1, max_length=255), _ONE_LINE] | None = None
    content: Annotated[
        Text | _Bytes | None,
        BeforeValidator(_encoded, json_schema_input_type=Text | _Bytes | NodeBuffer | None),
    ] = None
    path: Text | None = None
    content_type: _OneLine | None = None
    content_id: _OneLine | None = None
    inline_content_id: _OneLine | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if (self.content is None) == (self.path is None):
            raise ValueError("give either content or path")
        if isinstance(self.content, str):
            try:
                base64.b64decode(self.content, validate=True)
            except ValueError:
                raise ValueError("content is not Base64") from None
        return self

    @property
    def size(self) -> int:
        """The number of attached bytes."""
        if isinstance(self.content, str):
            return len(self.content) * 3 // 4
        return len(self.content or ())


class Tag(Arguments):
    """A name and a value for the sender's own use."""

    name: _TagText
    value: _TagText | None = None


class Template(Arguments):
    """A template that is published at Resend, and the values of its variables."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    variables: _Variables | None = None


class EmailArguments(Arguments):
    """The arguments of `tasks.email.send`.

    They include every parameter of the SDK's `Emails.send` except those in `refused`.
    """

    follows: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {
        "batch_validation": (
            "is not accepted: the workers make the batches, and each email has its own result"
        ),
    }

    sender: Annotated[Address | None, Field(alias="from")] = None
    to: Recipients
    cc: MoreRecipients = None
    bcc: MoreRecipients = None
    reply_to: MoreRecipients = None
    subject: Annotated[str, Field(min_length=1, max_length=998), _ONE_LINE] | None = None
    html: Text | None = None
    text: Text | None = None
    template: Template | None = None
    attachments: Annotated[list[Attachment] | None, _NoneIfEmpty] = None
    tags: list[Tag] | None = None
    headers: _Headers | None = None
    scheduled_at: _Moment | None = None
    topic_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    idempotency_key: KeyText | None = None
    dedupe_key: KeyText | None = None
    notify: NotifyUrl | None = None
    deadline_s: Deadline | None = None

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        has_body = self.html is not None or self.text is not None
        if self.template is not None and has_body:
            raise ValueError("give either template, or html and text: a template has its own body")
        if self.template is None and self.subject is None:
            raise ValueError("subject: is required")
        if self.template is None and not has_body:
            raise ValueError("html or text is required, or template")
        if sum(attachment.size for attachment in self.attachments or ()) > _MOST_ATTACHED_BYTES:
            raise ValueError("attachments are larger than 40 MB together")
        return self

    @property
    def everyone(self) -> list[str]:
        """The addresses of all recipients."""
        return [*self.to, *(self.cc or ()), *(self.bcc or ())]

    @property
    def recipients(self) -> int:
        """The number of recipients; each counts against Resend's quotas."""
        return len(self.everyone)

    @property
    def from_domain(self) -> str:
        """The domain of the from address; empty if the key decides it."""
        return domain_of(self.sender or "")

    def can_go_with(self, key: ApiKey) -> bool:
        """Whether the email or the key has a from address."""
        return bool(self.sender or key.sender)

    @property
    def batchable(self) -> bool:
        """Whether the email may be in a batch: Resend's batch endpoint takes no attachments."""
        return self.attachments is None

    def content_hash(self) -> str:
        """Return a hash of the email's content, which does not depend on its idempotency key."""
        given = self.model_dump(exclude_none=True, exclude=_OF_THE_JOB)
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()

    def payload(self, *, sender: str) -> dict[str, Any]:
        """Return the body of `POST /emails`; the same arguments always make the same body.

        Args:
            sender: The from address; empty: the one in the template.
        """
        given = self.model_dump(exclude_none=True, exclude={"sender", *_OF_THE_JOB})
        if self.scheduled_at:
            given["scheduled_at"] = _in_utc(self.scheduled_at)
        return ({"from": sender} if sender else {}) | given

    def payload_for(self, key: ApiKey) -> dict[str, Any]:
        """Return the body of an email that is sent with a key.

        Raises:
            Deferred: Neither the email nor the key has a from address. The key was added after the
                turn began, and the next turn does not use it.
        """
        sender = self.sender or key.sender
        if not sender:
            raise Deferred(1_000, "a key without a from address was added")
        return self.payload(sender=sender)

    def payload_of_template(self, key: ApiKey) -> dict[str, Any]:
        """Return the body of an email whose template may have the from address that no key has."""
        return self.payload(sender=self.sender or key.sender or "")


def domain_of(address: str) -> str:
    """Return the domain of `a@b.c` or `Name <a@b.c>`, in lower case."""
    return address.rpartition("@")[2].rstrip("> ").lower()
