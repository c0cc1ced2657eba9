"""Flower's address, its start and stop, and its log lines about requests."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import flower.app
import pytest

from worker.dashboard import application, stock_changes
from worker.dashboard.application import KeysFlower

WARNED = "Flower listens on 127.0.0.1 only, not on {}: no login is configured (FLOWER_BASIC_AUTH)"


# The given address, whether logins exist, whether it is a socket, and where Flower listens.
@pytest.mark.parametrize(
    ("given", "login", "socket", "listens", "warned"),
    [
        ("0.0.0.0", True, "", "0.0.0.0", None),  # noqa: S104 - the case at issue
        ("0.0.0.0", False, "", "127.0.0.1", "0.0.0.0"),  # noqa: S104
        ("", False, "", "127.0.0.1", "every address"),
        ("", False, "/run/flower", "", None),
        ("localhost", False, "", "localhost", None),
        ("::1", False, "", "::1", None),
        ("127.0.0.9", False, "", "127.0.0.9", None),
        ("10.0.0.1", False, "", "127.0.0.1", "10.0.0.1"),
    ],
)
def test_flower_without_a_login_listens_on_the_loopback_address_only(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    given: str,
    login: bool,
    socket: str,
    listens: str,
    warned: str | None,
) -> None:
    monkeypatch.setattr(flower.app.Flower, "start_http_server", lambda _: "the server")
    keys_flower = KeysFlower.__new__(KeysFlower)
    keys_flower.options = SimpleNamespace(address=given, unix_socket=socket)
    keys_flower.auth_config = SimpleNamespace(allows_people=login)
    assert keys_flower.start_http_server() == "the server"
    assert keys_flower.options.address == listens
    assert caplog.messages == ([WARNED.format(warned)] if warned else [])


def test_flower_polls_before_it_serves_and_stops_polling_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    keys_flower = KeysFlower.__new__(KeysFlower)
    keys_flower.poller = SimpleNamespace(
        start=lambda: order.append("poll"), stop=lambda: order.append("poll no more")
    )
    monkeypatch.setattr(flower.app.Flower, "start", lambda _: order.append("serve"))
    monkeypatch.setattr(flower.app.Flower, "stop", lambda _: order.append("serve no more"))
    keys_flower.start()
    keys_flower.stop()
    assert order == ["poll", "serve", "serve no more", "poll no more"]


@pytest.mark.parametrize("change", [None, "a change"])
def test_each_request_is_logged_and_a_change_is_written_down_once_it_is_answered(
    monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    logged, added = Mock(), Mock()
    monkeypatch.setattr(flower.app.Flower, "log_request", lambda _, handler: logged(handler))
    monkeypatch.setattr(stock_changes, "change_in", lambda _: change)
    monkeypatch.setattr(application.IOLoop, "current", lambda: SimpleNamespace(add_callback=added))
    keys_flower = KeysFlower.__new__(KeysFlower)
    keys_flower.poller = "the poller"  # type: ignore[assignment]
    keys_flower.log_request("the handler")  # type: ignore[arg-type]
    logged.assert_called_once_with("the handler")
    expected = [call(stock_changes.write_down, "the poller", change)] if change else []
    assert added.call_args_list == expected


def test_no_other_site_may_show_a_page_within_its_own() -> None:
    transform = application._Unframed.__new__(application._Unframed)
    headers: Any = {"Vary": "x"}
    answer = transform.transform_first_chunk(200, headers, b"page", True)
    assert answer == (200, {"Vary": "x", "X-Frame-Options": "DENY"}, b"page")


def test_credentials_are_compared_as_bytes() -> None:
    compare = application._Bytes.compare_digest
    assert compare("zoë:pässword", "zoë:pässword")
    assert not compare("zoë:pässword", "zoë:password")
