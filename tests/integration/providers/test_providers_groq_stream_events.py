"""How the bytes of a stream become events."""

import pytest

from worker.providers.groq.stream import EventDecoder


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_events_are_the_same_however_their_bytes_are_cut(size: int) -> None:
    wire = (
        b': comment\n\nevent: x\nid: 7\ndata: {"a":\r\ndata:  1}\r\n\r\ndata:b\n\n\nretry: 3\n\n'
        b"data: without an end"
    )
    decoder = EventDecoder()
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert [data for piece in pieces for data in decoder.feed(piece)] == [b'{"a":\n 1}', b"b"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1_000])
def test_a_line_may_end_in_each_way_that_the_standard_names(end: bytes, size: int) -> None:
    """This holds also if a part of the stream ends between CR and LF."""
    lines = (b"\xef\xbb\xbfdata: a", b"", b": comment", b"data: b", b"data", b"data:c", b"", b"")
    wire = end.join(lines)
    decoder = EventDecoder()
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert [data for piece in pieces for data in decoder.feed(piece)] == [b"a", b"b\n\nc"]


def test_an_event_that_ends_with_cr_waits_for_nothing_more() -> None:
    decoder = EventDecoder()
    assert list(decoder.feed(b"data: a\r\r")) == [b"a"]
    assert list(decoder.feed(b"")) == []
    assert list(decoder.feed(b"\ndata: b\r\n\r")) == [b"b"]
