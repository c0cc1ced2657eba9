"""Authentication by pure functions: which visitors get in, and which may change something."""

from base64 import b64encode

import pytest

from worker.dashboard.auth import AuthConfig, Visitor, authenticate, refuse_other_sites
from worker.dashboard.errors import ApiError

TOKEN = "a-long-token"
LOGIN = "ada:secret:with:colons"


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


# The configuration, the header and session of the request, and the accepted user.
@pytest.mark.parametrize(
    ("auth_config", "authorization", "session", "name"),
    [
        (AuthConfig(logins=(LOGIN,)), basic(LOGIN), None, "ada"),
        # The second of two logins.
        (AuthConfig(logins=("eve:x", LOGIN)), basic(LOGIN), None, "ada"),
        (AuthConfig(logins=("ädä:pässwörd",)), basic("ädä:pässwörd"), None, "ädä"),  # not ASCII
        (
            AuthConfig(logins=("n" * 200 + ":x",)),
            basic("n" * 200 + ":x"),
            None,
            "n" * 80,
        ),  # the longest name in the audit trail
        (AuthConfig(token=TOKEN), f"Bearer {TOKEN}", None, "token"),
        (AuthConfig(logins=(LOGIN,), token=TOKEN), f"Bearer {TOKEN}", None, "token"),
        (AuthConfig(oauth=True), "", "ada@example.com", "ada@example.com"),
        (
            AuthConfig(oauth=True, logins=(LOGIN,)),
            basic(LOGIN),
            "ada@example.com",
            "ada@example.com",
        ),
        (AuthConfig(oauth=True, token=TOKEN), f"Bearer {TOKEN}", None, "token"),
        (
            AuthConfig(token="tökén"),
            "Bearer " + "tökén".encode().decode("latin-1"),
            None,
            "token",
        ),  # as Tornado reads it
    ],
)
def test_an_administrator_is_let_in(
    auth_config: AuthConfig, authorization: str, session: str | None, name: str
) -> None:
    assert authenticate(auth_config, authorization, session) == Visitor(name)


# The configuration, the request, and the status.
@pytest.mark.parametrize(
    ("auth_config", "authorization", "session", "status"),
    [
        (AuthConfig(), "", None, 403),  # nothing is configured
        (AuthConfig(), "Bearer ", "ada@example.com", 403),
        (AuthConfig(token=""), "Bearer ", None, 403),  # an empty token counts as none
        (AuthConfig(token=TOKEN), f"Basic {TOKEN}", None, 401),
        (AuthConfig(token=TOKEN), TOKEN, None, 401),
        (AuthConfig(oauth=True, token=TOKEN), "Bearer x", "ada@example.com", 401),
        (AuthConfig(logins=(LOGIN,)), basic(LOGIN)[:-4] + "*" + basic(LOGIN)[-4:], None, 401),
        (AuthConfig(logins=(LOGIN,)), "Bearer None", None, 401),  # no token is configured
        (
            AuthConfig(logins=(LOGIN,), oauth=True),
            basic(LOGIN),
            None,
            401,
        ),  # both auth_config must be passed
        (AuthConfig(logins=(LOGIN,), oauth=True), "", "ada@example.com", 401),
        (AuthConfig(oauth=True), basic(LOGIN), None, 401),
    ],
)
def test_everyone_else_is_refused(
    auth_config: AuthConfig, authorization: str, session: str | None, status: int
) -> None:
    with pytest.raises(ApiError) as refused:
        authenticate(auth_config, authorization, session)
    assert refused.value.status_code == status
    assert TOKEN not in refused.value.message


def test_only_the_admins_that_are_named_may_change_something() -> None:
    admins = ("eve", "ada@example.com", "n" * 200)
    logins = AuthConfig(logins=(LOGIN, "eve:x", "n" * 200 + ":x"), token=TOKEN, admins=admins)
    oauth = AuthConfig(oauth=True, admins=admins)
    assert not authenticate(logins, basic(LOGIN), None).may_change
    assert authenticate(logins, basic("eve:x"), None).may_change
    assert authenticate(logins, basic("n" * 200 + ":x"), None).may_change
    assert authenticate(logins, f"Bearer {TOKEN}", None).may_change  # because of ADMIN_TOKEN
    assert authenticate(oauth, "", "ada@example.com").may_change
    assert not authenticate(oauth, "", "eve@example.com").may_change
    assert logins.admins_without_login == ["ada@example.com"]
    assert not oauth.admins_without_login


def test_credentials_do_not_show_in_the_repr() -> None:
    assert repr(AuthConfig(logins=(LOGIN,), token=TOKEN)) == "AuthConfig(oauth=False, admins=())"


# The headers of requests to flower.example:5555 from our own page or from a program.
@pytest.mark.parametrize(
    "headers",
    [
        {},  # curl
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://flower.example:5555"},
        {"Origin": "http://FLOWER.example:5555"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_our_own_pages_may_ask_for_changes(headers: dict[str, str]) -> None:
    refuse_other_sites(headers, "flower.example:5555")


# The headers of requests from elsewhere.
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://flower.example"},  # another port
        {"Origin": "http://flower.example:5555.evil.example"},
        {"Origin": "http://user@flower.example:5555"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    ],
)
def test_pages_of_other_sites_may_not_ask_for_changes(headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as refused:
        refuse_other_sites(headers, "flower.example:5555")
    assert refused.value.status_code == 403
