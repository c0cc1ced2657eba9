"""Decides which addresses are public: a job's URL must not lead into the operator's network."""

import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SITE_LOCAL: Final = ipaddress.IPv6Network("fec0::/10")
"""Obsolete private addresses. `ipaddress` treats them as public."""


def is_public(text: str) -> bool:
    """Return whether an address, and each address embedded in it, is public.

    Args:
        text: The address to connect to, as a socket takes it.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return all(map(_is_global, (address, *_embedded(address))))


def _is_global(address: Address) -> bool:
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address in _SITE_LOCAL
    )


def _embedded(address: Address) -> list[Address]:
    """Return the IPv4 addresses that an IPv6 address leads to by a translation or a tunnel."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    addresses: list[Address | None] = [
        address.ipv4_mapped,
        address.sixtofour,
        *(address.teredo or ()),
    ]
    if address in _NAT64:
        addresses.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [address for address in addresses if address is not None]
