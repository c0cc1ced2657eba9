"""Measures the cost of a streamed token: `python -m benchmarks.streams`.

There are two parts: reading chunks from the wire (with the SDK's own models, and as we do), and
writing them to Redis from many answers at once. The event loop's cost without writing is measured,
too, and subtracted.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import groq
from redis.asyncio import BlockingConnectionPool, Redis

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from worker.providers.groq.stream import AssembledAnswer, EventDecoder
from worker.streams import AnswerStream, StreamWriter

RESULTS = Path(__file__).with_name("results")
_US = 1_000_000


class _IgnoringListener:
    """A listener that ignores everything."""

    def begin(self) -> None:
        """Ignore the beginning."""

    def piece(self, **_: object) -> None:
        """Ignore the piece."""


async def reading(tokens: int, rounds: int) -> dict[str, float]:
    """CPU time of a chunk, in microseconds, by reader: the best of several rounds."""
    best: dict[str, float] = {}
    with Sandbox(
        groq_rpm=0, groq_tpm=0, groq_rpd=0, groq_tpd=0, groq_completion_tokens=tokens
    ) as sandbox:
        client = groq.AsyncGroq(
            api_key=sandbox.keys("groq")[0], base_url=sandbox.groq_base_url, max_retries=0
        )
        create = client.chat.completions.with_raw_response.create
        for round_number in range(rounds):
            for reader in ("sdk", "ours"):
                raw = await create(
                    model="openai/gpt-oss-120b",
                    messages=[{"role": "user", "content": f"round {round_number}"}],
                    max_tokens=tokens,
                    stream=True,
                )
                began = time.process_time()
                if reader == "sdk":
                    async for _ in await raw.parse():
                        pass
                else:
                    decoder, heard = EventDecoder(), AssembledAnswer(_IgnoringListener())
                    async for part in raw.http_response.aiter_bytes():
                        for data in decoder.feed(part):
                            heard.take(data)
                cost_us = (time.process_time() - began) / tokens * _US
                best[reader] = min(best.get(reader, cost_us), cost_us)
        await client.close()
    return {f"read_{reader}_us": round(cost_us, 1) for reader, cost_us in best.items()}


async def writing(url: str, *, streams: int, per_second: int, seconds: int) -> dict[str, float]:
    """CPU time of a token, records a stream, and the delay of the event loop."""
    redis = Redis.from_pool(
        BlockingConnectionPool.from_url(url, decode_responses=True, max_connections=32)
    )
    writer = StreamWriter(redis, namespace="kw", expires_s=600)
    open_streams = [writer.open(f"job-{number}") for number in range(streams)]
    late_ms: list[float] = []

    async def answer(number: int, stream: AnswerStream | None) -> None:
        await asyncio.sleep(number / streams / per_second)
        for _ in range(per_second * seconds):
            if stream is not None:
                stream.piece(text=" token")
            await asyncio.sleep(1 / per_second)
        if stream is not None:
            stream.close("end", status="done")
            await stream.finished.wait()

    async def watch() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            late_ms.append((time.monotonic() - began - 0.01) * 1000)

    for stream in open_streams:
        stream.begin()
    watching = asyncio.create_task(watch())
    cpu_s = []
    for targets in (open_streams, [None] * streams):
        began = time.process_time()
        await asyncio.gather(*(answer(number, stream) for number, stream in enumerate(targets)))
        cpu_s.append(time.process_time() - began)
    watching.cancel()
    records = await redis.xlen(open_streams[0].name)
    await writer.close()
    await redis.aclose()
    return {
        "tell_us": round((cpu_s[0] - cpu_s[1]) / (streams * per_second * seconds) * _US, 1),
        "records_a_stream": records,
        "tokens_a_stream": per_second * seconds,
        "loop_late_p99_ms": round(sorted(late_ms)[len(late_ms) * 99 // 100], 1),
    }


def main() -> None:
    """Measure, print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--per-second", type=int, default=50, help="tokens of each stream")
    parser.add_argument("--seconds", type=int, default=5)
    given = parser.parse_args()
    costs = asyncio.run(reading(2_000, 3))
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(data_dir=Path(folder)) as server:
        costs |= asyncio.run(
            writing(
                server.url,
                streams=given.streams,
                per_second=given.per_second,
                seconds=given.seconds,
            )
        )
    print(json.dumps(vars(given) | costs, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "streams.json").write_text(json.dumps(vars(given) | costs, indent=2) + "\n")


if __name__ == "__main__":
    main()
