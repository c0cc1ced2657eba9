"""The error that ends the demo."""


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it.

    Args:
        sentence: What happened.
        tail: The end of the log of the process concerned.
    """

    def __init__(self, sentence: str, tail: str = "") -> None:
        super().__init__(sentence)
        self.tail = tail
