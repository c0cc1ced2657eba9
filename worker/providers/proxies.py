"""Finds the proxy that the environment names for a provider.

The variables are HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.
"""

import os
import urllib.request
from typing import Final

import httpx

from config.errors import SettingsError

_KINDS: Final = {"http", "https"}
_PORTS: Final = range(1, 65_536)


def proxy_for(base_url: str) -> httpx.Proxy | None:
    """Find the proxy for a provider's address; None if calls go there directly.

    Raises:
        SettingsError: The proxy cannot be used; the sentence names the variable.
    """
    url = httpx.URL(base_url)
    if _is_exempt(url):
        return None
    proxies = urllib.request.getproxies()
    scheme = url.scheme if url.scheme in proxies else "all"
    if not (named := proxies.get(scheme)):
        return None
    full = named if "://" in named else f"http://{named}"
    try:
        proxy = httpx.Proxy(full)
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or not _is_usable(proxy.url):
        kind = full.partition("://")[0]  # no more of it: the address may hold a password
        kind = "an address that cannot be read" if kind in _KINDS else f"a {kind}:// proxy"
        sentence = (
            f"{_variable(scheme)} names {kind}, and calls to {url.host} can only go through an "
            "http:// or https:// one:"
            f" set {url.scheme.upper()}_PROXY to one, or NO_PROXY to {url.host}."
        )
        raise SettingsError([sentence])
    # aiohttp reads user and password from the address. From `auth`, where httpx keeps them, they
    # would become aiohttp's `BasicAuth`, which warns that it is deprecated.
    proxy.url, proxy.auth = httpx.URL(full), None
    return proxy


def _is_exempt(url: httpx.URL) -> bool:
    """Whether NO_PROXY names the host, or the host with its port."""
    addresses = (url.host, url.netloc.decode("ascii"))
    return any(urllib.request.proxy_bypass(address) for address in addresses)


def _is_usable(url: httpx.URL) -> bool:
    return url.scheme in _KINDS and bool(url.host) and (url.port is None or url.port in _PORTS)


def _variable(scheme: str) -> str:
    """Return the name of the variable that is set; like `getproxies`, prefer the lower-case one."""
    name = f"{scheme}_proxy"
    return name if os.environ.get(name) else name.upper()
