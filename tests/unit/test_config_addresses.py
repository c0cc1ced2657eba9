"""Mail addresses in the settings."""

import pytest

from config.addresses import is_address


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a@b.example", True),
        ("Acme Mail <a.b+c@mail.acme.example>", True),
        ("<a@b.example>", True),
        ("a@bücher.example", True),
        # domains in scripts with marks and joiners; decomposed letters; an emoji
        ("a@\u0939\u093f\u0928\u094d\u0926\u0940.\u092d\u093e\u0930\u0924", True),
        ("a@\u0e40\u0e27\u0e47\u0e1a.\u0e44\u0e17\u0e22", True),
        ("a@bu\u0308cher.example", True),
        ("a@\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.example", True),
        ("\u0646\u0647\u200c\u0627@b.example", True),
        ("a@l\u00b7l.example", True),
        ("a@i\u2764\ufe0f.example", True),
        # a quoted local part may hold characters that otherwise separate addresses
        ('"a b"@c.example', True),
        ('Name <"a@b, \\"c\\""@d.example>', True),
        ('"a"b"@c.example', False),
        ('""@c.example', False),
        ('"a\\"@c.example', False),
        # names of real people
        ("Marie\u00a0Curie <a@b.example>", True),
        ("\U0001f468\u200d\U0001f469 <a@b.example>", True),
        ('"a < b" <a@b.example>', True),
        # invisible characters in the address itself
        ("a\u200d@b.example", False),
        ("a@b\u00a0.example", False),
        ("a@b\u200dc.example", False),
        ("a@b\u202ec.example", False),
        ("a@b\u3002example", False),
        ("a@b\uff20c.example", False),
        ("a@b^c.example", False),
        ("a@b_.example", False),
        # no domain, one label, an empty or bad label, an address as a number
        ("a", False),
        ("a@", False),
        ("a@localhost", False),
        ("a@b..example", False),
        ("a@-b.example", False),
        ("a@1.2.3.4", False),
        # no local part or a broken one, two addresses, an injected header
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
def test_an_address_of_mail_is_recognized(text: str, *, valid: bool) -> None:
    assert is_address(text) is valid
