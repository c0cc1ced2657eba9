"""How Flower's command ends where its options cannot work."""

import errno
import os
from types import SimpleNamespace
from typing import Any

import click
import pytest
from tornado.ioloop import IOLoop
from tornado.options import Error

from worker.cli.flower import in_a_sentence

OPTIONS = SimpleNamespace(address="127.0.0.1", port=5555, conf="flowerconfig.py")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)),
            "127.0.0.1:5555: Address already in use",
        ),
        (FileNotFoundError(2, "No such file or directory", "a.py"), "a.py: No such file or "),
        (ValueError('certfile "/x" does not exist'), 'certfile "/x" does not exist'),
        (SyntaxError("invalid syntax", ("a.py", 3, 1, "x ==")), "a.py, line 3: invalid syntax"),
        (SyntaxError("invalid syntax", ("<string>", 3, 1, "x")), "flowerconfig.py, line 3: "),
        (KeyError("nosuch"), "'nosuch' is none of its options; look at the variables FLOWER_"),
        (Error("Unrecognized command line option: '--nosuch'"), "Unrecognized command line "),
    ],
)
async def test_what_keeps_flower_from_starting_is_a_sentence(error: Exception, said: str) -> None:
    def run() -> None:
        raise error

    with pytest.raises(click.ClickException, match=r"^Flower cannot start: ") as caught:
        in_a_sentence(run, options=OPTIONS)()
    assert said in caught.value.message


def test_an_error_of_a_flower_that_served_keeps_its_traceback() -> None:
    def run() -> Any:
        loop = IOLoop.current()
        loop.add_callback(loop.stop)
        loop.start()
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        in_a_sentence(run, options=OPTIONS)()
