"""Addresses of mail, as the settings take them."""

import pytest

from config.addresses import is_address


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a@b.example", True),
        ("Acme Mail <a.b+c@mail.acme.example>", True),
        ("<a@b.example>", True),
        ("a@bücher.example", True),
        # names of real people
        ("Marie\u00a0Curie <a@b.example>", True),
        ("\U0001f468\u200d\U0001f469 <a@b.example>", True),
        ('"a < b" <a@b.example>', True),
        # invisible characters in the address itself
        ("a\u200d@b.example", False),
        ("a@b\u00a0.example", False),
        # no domain, one label, an empty or bad label, an address as a number
        ("a", False),
        ("a@", False),
        ("a@localhost", False),
        ("a@b..example", False),
        ("a@-b.example", False),
        ("a@1.2.3.4", False),
        # no or a broken local part, two addresses, a header smuggled in
        ("@b.example", False),
        (".a@b.example", False),
        ("a.@b.example", False),
        ("a b@c.example", False),
        ("a@b.example, c@d.example", False),
        ("Name <a@b.example", False),
        ("Name <a@b.example>\r\nBcc: c@d.example", False),
        ("a@" + "b." * 130 + "example", False),
    ],
)
def test_addresses(text: str, *, valid: bool) -> None:
    assert is_address(text) is valid
