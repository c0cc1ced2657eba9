"""Answers as they come.

One Redis stream a job, for web applications that show tokens while they are made.
"""

from worker.streams.answer import AnswerStream
from worker.streams.lifecycle import answer_stream, tell_done
from worker.streams.writer import StreamWriter, stream_name

__all__ = ["AnswerStream", "StreamWriter", "answer_stream", "stream_name", "tell_done"]
