"""Resets by the admin endpoint: what they bring back, and what they leave disabled."""

import json
from typing import Any

import pytest

from config.services import SERVICES
from tests.integration.dashboard.dashboard_site import (
    BEARER,
    LOGIN,
    TOKEN,
    Serve,
    described,
    post,
)


# The credentials, and the name in the audit trail.
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"auth": LOGIN}, "ada"),  # a person
        ({"auth": None, "headers": BEARER}, "token"),  # a machine
        (
            {"auth": None, "headers": {"Authorization": f"bearer  {TOKEN}"}},
            "token",
        ),  # the scheme may be in any case
    ],
)
async def test_a_reset_brings_a_disabled_key_back_and_says_who_did_it(
    serve: Serve, options: dict[str, Any], name: str
) -> None:
    site = await serve()
    key_id = await site.disable()
    assert (await site.key("groq"))["state"] == "disabled"
    answer = await post(site, "reset", json={"service": "groq", "key": key_id}, **options)
    assert answer.status_code == 200
    back = {"scope": "key", "name": site.keys["groq"][0].label, "key": key_id, "state": "disabled",
        "reason": "by hand",
            "disabled_by": "test"}  # fmt: skip
    assert described(answer) == {
        "reset": {"groq": 1}, "brought_back": {"groq": [back]}, "left_disabled": {"groq": []},
        "by": name,
    }  # fmt: skip
    # Without a wait: the very next response has the change.
    assert (await site.status())["services"]["groq"]["keys"][0]["state"] == "ready"
    newest = (await site.pools["groq"].audit())[0]
    assert (newest["event"], newest["by"]) == ("reset", f"flower {name}")


# The body, and the services that are reset.
@pytest.mark.parametrize(
    ("options", "services"),
    [
        ({}, set(SERVICES)),  # an empty body
        ({"json": {}}, set(SERVICES)),
        ({"json": {"service": "groq"}}, {"groq"}),
        ({"json": {"service": "resend"}}, {"resend"}),
        # the request of our own page, from its address
        (
            {"json": {}, "headers": {"Sec-Fetch-Site": "same-origin", "Origin": "{url}"}},
            set(SERVICES),
        ),
        # a person who types the address
        ({"json": {}, "headers": {"Sec-Fetch-Site": "none"}}, set(SERVICES)),
        (
            {
                "content": b' {"service": "groq"} ',
                "headers": {"Content-Type": 'application/json; charset="UTF-8"'},
            },
            {"groq"},
        ),
    ],
)
async def test_a_reset_covers_the_service_that_was_named_or_all(
    serve: Serve, options: dict[str, Any], services: set[str]
) -> None:
    site = await serve()
    refused = {"groq", "resend"}  # the services for which the site has keys
    for service in refused:
        await site.refuse(service)
    headers = {
        name: value.format(url=site.url) for name, value in options.get("headers", {}).items()
    }
    reply = described(await post(site, "reset", **(options | {"headers": headers})))
    assert reply["reset"] == {service: int(service in refused) for service in services}
    await site.app.poller.fresh_state(force=True)
    for service, view in (await site.status())["services"].items():
        assert view["summary"]["disabled"] == int(service in refused - services)


# The body, and whether keys that a person disabled come back.
@pytest.mark.parametrize(
    ("body", "comes_back"),
    [
        ({}, False),
        ({"include_disabled": False}, False),
        ({"include_disabled": True}, True),
        ({"include_disabled": []}, False),
        ({"include_disabled": ["of-another-key"]}, False),
        ({"include_disabled": ["{key}"]}, True),
        ({"service": "groq", "key": "{key}"}, True),
        ({"service": "groq", "key": "{key}", "include_disabled": []}, False),
    ],
)
async def test_a_reset_leaves_out_what_a_person_disabled_unless_it_says_otherwise(
    serve: Serve, body: dict[str, Any], *, comes_back: bool
) -> None:
    site = await serve()
    key_id = await site.disable()
    content = json.dumps(body).replace("{key}", key_id)
    headers = {"Content-Type": "application/json"}
    reply = described(await post(site, "reset", content=content, headers=headers))
    assert (
        [block["key"] for block in reply["left_disabled"]["groq"]] == [] if comes_back else [key_id]
    )
    assert reply["reset"]["groq"] == int(comes_back)
    assert (await site.key("groq"))["state"] == ("ready" if comes_back else "disabled")
