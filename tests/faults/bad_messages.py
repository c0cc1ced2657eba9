"""Messages that a faulty client might send: a good message and its possible defects."""

import base64
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

CANARY = "canary-of-a-bad-input-7f3a"
"""A text that stands for the prompts and mails of a caller.

No log may contain it, however wrong the rest of the message is.
"""

OUT: Any = object()
"""Used as a value: the field is left out."""

SERVED = "it is served all the same"
NOTHING = "nobody can be told"
PROTOCOL = "InvalidTaskError"


@dataclass(frozen=True)
class Bad:
    """A message with a defect.

    Attributes:
        says: The defect, as a sentence.
        caller: What the caller gets: `SERVED`, `NOTHING`, or the kind of the failure and a part of
            its sentence.
        body: The body that replaces the good one, before it becomes JSON.
        raw: The bytes that replace the body.
        options: The third part of the body.
        headers: The headers that replace good ones.
        properties: The properties that replace good ones.
        top: The fields of the message that replace good ones.
    """

    says: str
    caller: str | tuple[str, str]
    body: Any = None
    raw: bytes | None = None
    options: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)

    def message(self, job: str) -> dict[str, Any]:
        """Return the whole message of a job."""
        empty = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        body = [[], {"prompt": CANARY}, empty | self.options] if self.body is None else self.body
        raw = json.dumps(body).encode() if self.raw is None else self.raw
        headers = {
            "lang": "py", "task": "tasks.ai.complete", "id": job, "root_id": job, "parent_id": None,
            "group": None,
            "eta": None, "expires": None, "retries": 0, "timelimit": [None, None], "shadow": None,
            "origin": "a stranger", "argsrepr": "()", "kwargsrepr": CANARY,
        }  # fmt: skip
        properties = {
            "correlation_id": job, "reply_to": "", "delivery_mode": 2, "priority": 0,
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "ai"},
            "delivery_tag": str(uuid.uuid4()),
        }  # fmt: skip
        message = {
            "body": base64.b64encode(raw).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": _without(headers | self.headers),
            "properties": _without(properties | self.properties),
        }
        return _without(message | self.top)


def _without(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not OUT}


def header(name: str, value: Any, says: str) -> Bad:
    """A malformed header, which the error names for the caller."""
    return Bad(says, (PROTOCOL, f"its header {name} is malformed"), headers={name: value})


MESSAGES = [
    # Bodies.
    Bad("the body is no JSON", (PROTOCOL, ""), raw=b"{" + CANARY.encode()),
    Bad("the body is empty", (PROTOCOL, ""), raw=b""),
    Bad(
        "the body is half a character",
        (PROTOCOL, ""),
        raw=b'[[],{"prompt":"\xff\xfe' + CANARY.encode() + b'"},{}]',
    ),
    Bad(
        "the body is a pickle that says it is JSON",
        (PROTOCOL, ""),
        raw=b"\x80\x04\x95" + CANARY.encode(),
    ),
    Bad("the body is nested 100,000 deep", (PROTOCOL, ""), raw=b"[" * 100_000 + b"]" * 100_000),
    Bad("the body is an object", (PROTOCOL, "its body is not a list"), body={"prompt": CANARY}),
    Bad("the body is a number", (PROTOCOL, "its body is not a list"), body=7),
    Bad("the body is null", (PROTOCOL, "its body is not a list"), raw=b"null"),
    Bad("the body is a text", (PROTOCOL, "its body is not a list"), body=CANARY),
    Bad("the body is an empty list", (PROTOCOL, "its body is not a list"), body=[]),
    Bad(
        "the body lacks the options",
        (PROTOCOL, "its body is not a list"),
        body=[[], {"prompt": CANARY}],
    ),
    Bad(
        "the body has a part too many",
        (PROTOCOL, "its body is not a list"),
        body=[[], {"prompt": "x"}, {}, CANARY],
    ),
    Bad(
        "the arguments are an object",
        (PROTOCOL, "its arguments must be"),
        body=[{"a": CANARY}, {"prompt": "x"}, {}],
    ),
    Bad(
        "the arguments are a text",
        (PROTOCOL, "its arguments must be"),
        body=[CANARY, {"prompt": "x"}, {}],
    ),
    Bad(
        "the keyword arguments are a list",
        (PROTOCOL, "its arguments must be"),
        body=[[], [CANARY], {}],
    ),
    Bad("the keyword arguments are null", (PROTOCOL, "its arguments must be"), body=[[], None, {}]),
    Bad(
        "the arguments come by position",
        ("InvalidArguments", "pass arguments by name"),
        body=[[CANARY], {}, {}],
    ),
    Bad(
        "the options are a list",
        (PROTOCOL, "its options must be"),
        body=[[], {"prompt": "x"}, [CANARY]],
    ),
    Bad("there are no options", SERVED, body=[[], {"prompt": CANARY}, None]),
    Bad(
        "what follows is no job",
        (PROTOCOL, "its callbacks, chain or chord"),
        options={"callbacks": [CANARY]},
    ),
    Bad("the chain is a number", (PROTOCOL, "its callbacks, chain or chord"), options={"chain": 3}),
    Bad(
        "the chord is a text",
        (PROTOCOL, "its callbacks, chain or chord"),
        options={"chord": CANARY},
    ),
    Bad("the body is a prompt of 10 MB", SERVED, body=[[], {"prompt": CANARY * 400_000}, None]),
    Bad(
        "the body is an unknown argument of 10 MB",
        ("InvalidArguments", "promt: is not a parameter"),
        body=[[], {"prompt": "x", "promt": CANARY * 400_000}, None],
    ),
    # The encoding of the body.
    Bad(
        "the content is a pickle",
        (PROTOCOL, ""),
        raw=b"\x80\x04.",
        top={"content-type": "application/x-python-serialize"},
    ),
    Bad(
        "the content is YAML",
        (PROTOCOL, ""),
        raw=b"- a",
        top={"content-type": "application/x-yaml"},
    ),
    Bad(
        "the content is of a type nobody knows",
        (PROTOCOL, ""),
        top={"content-type": "text/klingon"},
    ),
    Bad("the content type is a number", (PROTOCOL, ""), top={"content-type": 7}),
    Bad("the content type is missing", (PROTOCOL, ""), top={"content-type": OUT}),
    Bad(
        "the text is UTF-16",
        (PROTOCOL, ""),
        raw=CANARY.encode("utf-16"),
        top={"content-encoding": "utf-16"},
    ),
    Bad("the encoding is one nobody knows", SERVED, top={"content-encoding": "klingon"}),
    Bad("the encoding is a number", (PROTOCOL, ""), top={"content-encoding": 7}),
    Bad("the encoding is missing", SERVED, top={"content-encoding": OUT}),
    Bad("the body is no Base64", NOTHING, top={"body": f"%%%{CANARY}"}),
    Bad("the body is an object, not a text", NOTHING, top={"body": {"a": CANARY}}),
    Bad("the body is missing", (PROTOCOL, ""), top={"body": OUT}),
    Bad("the body's encoding is one nobody knows", NOTHING, properties={"body_encoding": "rot13"}),
    Bad(
        "the body says it is packed and is not",
        (PROTOCOL, ""),
        headers={"compression": "application/x-gzip"},
    ),
    Bad("the body is packed in an unknown way", (PROTOCOL, ""), headers={"compression": "klingon"}),
    # Headers.
    Bad("the headers are null", NOTHING, top={"headers": None}),
    Bad("the headers are a list", NOTHING, top={"headers": [CANARY]}),
    Bad("the headers are missing", NOTHING, top={"headers": OUT}),
    Bad("no task is named", NOTHING, headers={"task": OUT}),
    Bad("the task is null", (PROTOCOL, "its headers task and id"), headers={"task": None}),
    Bad("the task is a list", (PROTOCOL, "its headers task and id"), headers={"task": [CANARY]}),
    Bad("the task is unknown", ("NotRegistered", ""), headers={"task": "os.system"}),
    Bad("the task's name is empty", ("NotRegistered", ""), headers={"task": ""}),
    Bad("the id is missing", NOTHING, headers={"id": OUT}),
    Bad("the id is null", NOTHING, headers={"id": None}),
    Bad("the id is a number", NOTHING, headers={"id": 7}),
    Bad("the id is a list", NOTHING, headers={"id": [CANARY]}),
    Bad("the id is endless", NOTHING, headers={"id": "x" * 100_000}),
    Bad("the id breaks the line", NOTHING, headers={"id": "a\nb"}),
    header("eta", f"tomorrow {CANARY}", "the eta is prose"),
    header("eta", 1e12, "the eta is a number"),
    header("eta", [CANARY], "the eta is a list"),
    Bad("the eta is no date", (PROTOCOL, ""), headers={"eta": "2026-99-99T99:99:99"}),
    Bad("the eta is long over", SERVED, headers={"eta": "1970-01-01T00:00:00+00:00"}),
    header("expires", f"soon {CANARY}", "the expiry is prose"),
    header("expires", -5, "the expiry is a number"),
    Bad(
        "it has expired",
        ("DeadlineExceeded", "it had not begun"),
        headers={"expires": "1970-01-01T00:00:00+00:00"},
    ),
    header("retries", "many", "the retries are a text"),
    header("retries", -1, "the retries are negative"),
    header("retries", 10**30, "the retries are absurd"),
    Bad("the retries are null", SERVED, headers={"retries": None}),
    header("timelimit", "soon", "the time limit is a text"),
    header("timelimit", ["a", "b"], "the time limits are texts"),
    header("timelimit", [1], "one time limit is missing"),
    header("timelimit", [-1, -1], "the time limits are negative"),
    header("timelimit", [float("nan"), None], "the time limit is no number"),
    header("shadow", [CANARY], "the other name is a list"),
    header("group", 7, "the group is a number"),
    header("root_id", [CANARY], "the first job's id is a list"),
    Bad(
        "the shown arguments are lists",
        SERVED,
        headers={"argsrepr": [CANARY], "kwargsrepr": {"a": CANARY}},
    ),
    Bad("the stamps are garbage", SERVED, headers={"stamped_headers": CANARY, "stamps": [CANARY]}),
    Bad(
        "it is of a later protocol", NOTHING, body={"version": 3}, top={"headers": {"protocol": 3}}
    ),
    Bad("a header says that it is of a later protocol", SERVED, headers={"protocol": 3}),
    Bad("our header is a list", SERVED, headers={"keywheel": [CANARY]}),
    Bad(
        "our header holds texts",
        SERVED,
        headers={"keywheel": dict.fromkeys(("since_ms", "deferrals", "deferred"), CANARY)},
    ),
    Bad(
        "our header holds endless numbers",
        SERVED,
        headers={"keywheel": {"since_ms": 10**400, "attempts": 10**400}},
    ),
    Bad(
        "our header holds no numbers",
        SERVED,
        headers={"keywheel": {"since_ms": float("nan"), "deferrals": -1.5}},
    ),
    Bad(
        "our header tells a strange story",
        SERVED,
        headers={"keywheel": {"trail": [CANARY, 7, {"at_ms": [CANARY]}]}},
    ),
    Bad("the count of deaths is a text", SERVED, headers={"deaths": CANARY}),
    # Properties, which the transport reads.
    Bad("there are no properties", NOTHING, top={"properties": OUT}),
    Bad("nobody says where it came from", NOTHING, properties={"delivery_info": OUT}),
    Bad("the delivery tag is missing", NOTHING, properties={"delivery_tag": OUT}),
    Bad("the delivery tag is a number", NOTHING, properties={"delivery_tag": 7}),
    Bad(
        "the exchange is a list",
        SERVED,
        properties={"delivery_info": {"exchange": [CANARY], "routing_key": "ai"}},
    ),
    Bad("the priority is out of range", SERVED, properties={"priority": 99}),
    Bad("the priority is a text", SERVED, properties={"priority": "high"}),
    Bad("the priority is negative", SERVED, properties={"priority": -1}),
    Bad("the correlation id is a number", SERVED, properties={"correlation_id": 7}),
    Bad("the address for replies is an object", SERVED, properties={"reply_to": {"a": CANARY}}),
]
"""One row for each defect; the first field describes it."""

ENTRIES = [
    b"",  # nothing
    b"not JSON " + CANARY.encode(),  # words
    b"null",  # JSON, but not a message
    b"7",
    b"[]",
    b"{}",  # an empty object
    b'"' + CANARY.encode() + b'"',  # a text
    b"\xff\xfe\x00" + CANARY.encode(),  # bytes that are not text
    b'{"body":' + b"[" * 3_000 + b"]" * 3_000 + b"}",  # nested deeper than the server can read
    b'{"headers":{"__type__":"datetime","__value__":"'
    + CANARY.encode()
    + b'"}}',  # kombu would read it as a date
    b"\x80\x04\x95" + CANARY.encode(),  # a pickle
]
"""Entries of a queue that are not messages."""
