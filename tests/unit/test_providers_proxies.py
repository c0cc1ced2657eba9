"""The proxy by which a provider is called, and how many connections a process may open."""

import resource

import pytest

from config.errors import SettingsError
from worker.providers import connections
from worker.providers.proxies import proxy_for


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "https://api.example", None),
        (
            {"https_proxy": "http://proxy.example:3128"},
            "https://api.example",
            "http://proxy.example:3128",
        ),
        (
            {"all_proxy": "http://proxy.example:3128"},
            "https://api.example",
            "http://proxy.example:3128",
        ),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "https://api.example", "http://proxy.example:3128"),
        ({"HTTPS_PROXY": "proxy.example:1"}, "https://api.example", "http://proxy.example:1"),
        ({"HTTPS_PROXY": "http://p:65535"}, "https://api.example", "http://p:65535"),
        ({"http_proxy": "http://proxy.example:3128"}, "https://api.example", None),
        (
            {"https_proxy": "https://u:p@proxy.example"},
            "https://api.example",
            "https://u:p@proxy.example",
        ),
        (
            {"https_proxy": "http://proxy.example:3128", "no_proxy": "api.example"},
            "https://api.example",
            None,
        ),
        (
            {"http_proxy": "http://proxy.example", "no_proxy": "a,api.example:81"},
            "http://api.example:81",
            None,
        ),
        (
            {"all_proxy": "socks5://proxy.example:1080", "NO_PROXY": "*"},
            "https://api.example",
            None,
        ),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_the_systems_proxy_is_honoured(
    environment: dict[str, str], url: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(url)
    assert (str(proxy.url) if proxy else None) == expected


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ALL_PROXY", "socks5://u:canary@proxy.example", "ALL_PROXY names a socks5:// proxy"),
        ("all_proxy", "socks5h://proxy.example", "all_proxy names a socks5h:// proxy"),
        ("HTTPS_PROXY", "socks4://proxy.example", "HTTPS_PROXY names a socks4:// proxy"),
        ("https_proxy", "http://", "https_proxy names an address that cannot be read"),
        ("HTTPS_PROXY", "http://canary:x:y", "HTTPS_PROXY names an address that cannot be read"),
        ("HTTPS_PROXY", "ftp://canary@proxy", "HTTPS_PROXY names a ftp:// proxy"),
        ("HTTPS_PROXY", "http://proxy:99999", "HTTPS_PROXY names an address that cannot be read"),
        ("HTTPS_PROXY", "canary:x@proxy:0", "HTTPS_PROXY names an address that cannot be read"),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        proxy_for("https://api.example")
    assert str(caught.value).startswith(sentence)
    assert "set HTTPS_PROXY to one, or NO_PROXY to api.example" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("soft_limit", "expected"), [(1_024, 1_024), (resource.RLIM_INFINITY, 1_000_000)]
)
def test_a_process_never_spends_all_its_files_on_connections(
    soft_limit: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft_limit, soft_limit))
    assert connections._open_files() == expected
