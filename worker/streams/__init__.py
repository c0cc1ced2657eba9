"""Streams of answers: one Redis stream for each job, for applications that show tokens live."""

from worker.streams.answer import AnswerStream
from worker.streams.lifecycle import answer_stream, finish_stream
from worker.streams.writer import StreamWriter, stream_name

__all__ = ["AnswerStream", "StreamWriter", "answer_stream", "finish_stream", "stream_name"]
