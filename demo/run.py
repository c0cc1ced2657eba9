"""One run, from the first process started to the last one gone."""

import asyncio
import contextlib
import shlex
import signal
import time
from collections.abc import AsyncIterator, Iterable
from http.client import HTTPException

from redis.exceptions import RedisError
from rich.console import Console
from rich.text import Text

from demo.errors import DemoError
from demo.plan import Plan
from demo.script import REVOKED, happenings, play
from demo.stage import ROOT, Stage
from demo.summary import judge
from demo.view import Lines, Picture, View
from demo.watch import Watch
from sandbox.process import SandboxError

_LOOK_EVERY_S = 0.25
_BLIND_S = 5.0
_SIGNAL_EXIT = 128


def run(plan: Plan, *, signals: Iterable[signal.Signals]) -> int:
    """Play a plan and clean up.

    Args:
        plan: What to play.
        signals: What stops it.

    Returns:
        The exit code.
    """
    return asyncio.run(_Run(plan).whole(signals))


class _Run:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._console = Console()
        self._stage = Stage(plan)
        self._deadline = time.monotonic() + plan.limit_s
        self._code: int | None = None
        self._stopped_by: signal.Signals | None = None

    async def whole(self, signals: Iterable[signal.Signals]) -> int:
        loop = asyncio.get_running_loop()
        performance = asyncio.ensure_future(self._perform())

        def stop(number: signal.Signals) -> None:
            self._stage.hurry()
            if self._stopped_by is None:
                self._stopped_by = number
                performance.cancel()

        for number in signals:
            loop.add_signal_handler(number, stop, number)
        code = 1
        tail_of_log = ""
        try:
            code = await performance
        except asyncio.CancelledError:
            code = self._interrupted()
        except DemoError as exc:
            self._complain(str(exc))
            tail_of_log = exc.tail
        finally:
            code = await self._clean_up(code, tail_of_log)
        return code

    def _interrupted(self) -> int:
        number = self._stopped_by or signal.SIGTERM
        if self._code is not None:
            return self._code  # only --keep was left
        self._console.print(
            Text(f"stopped by {'Ctrl-C' if number is signal.SIGINT else number.name}: cleaning up")
        )
        return _SIGNAL_EXIT + number

    async def _clean_up(self, code: int, tail_of_log: str) -> int:
        keep_logs = code == 1
        left = await asyncio.to_thread(self._stage.close, keep_logs=keep_logs)
        if tail_of_log:
            self._console.print(Text(tail_of_log, style="dim"), soft_wrap=True)
        for sentence in left:
            self._complain(sentence)
        if keep_logs and self._stage.has_logs:
            self._console.print(Text(f"the logs are kept in {self._stage.logs}"), soft_wrap=True)
        elif not left and code == 0:
            self._console.print(
                Text("nothing is left behind: every process ended, the temporary folder is gone")
            )
        return code or int(bool(left))

    def _complain(self, sentence: str) -> None:
        self._console.print(Text(f"✗ {sentence}", style="bold red"), soft_wrap=True)

    async def _perform(self) -> int:
        stage, plan = self._stage, self._plan
        stage.open()
        async with self._view() as view:
            view.say("starting Redis and the provider sandbox")
            await stage.start_servers()
            stage.start_workers()
            stage.start_flower()
            await stage.until_ready(view.say)
            watch = Watch(
                stage.redis_url,
                namespace=stage.namespace,
                environment=stage.environment,
                logs=[child.log for child in stage.workers],
                totals={"ai": plan.jobs, "email": plan.emails},
            )
            try:
                async with asyncio.timeout(max(0.1, self._deadline - time.monotonic())):
                    took_s = await self._play(watch, view)
            except TimeoutError:
                took_s = watch.story.elapsed_s
            finally:
                await watch.close()
        ledger = await asyncio.to_thread(stage.sandbox.ledger, full=True)
        summary = judge(watch, ledger, took_s=took_s)
        if not watch.over:
            summary.faults.insert(0, f"not over within {plan.limit_s:g} s")
        summary.show(self._console)
        code = int(bool(summary.faults))
        if plan.keep:
            self._code = code
            await self._stay()
        return code

    @contextlib.asynccontextmanager
    async def _view(self) -> AsyncIterator[View]:
        flower = self._stage.flower
        where = f"Flower: {flower.url}  user {flower.user}  password {flower.password}"
        if self._plan.plain or not self._console.is_terminal or self._console.is_dumb_terminal:
            self._console.print(Text(where), soft_wrap=True)
            yield Lines(self._console)
            return
        picture = Picture(self._console, where)
        with picture.shown():
            yield picture

    async def _play(self, watch: Watch, view: View) -> float:
        """Play until every job ended; returns how long that took, in seconds."""
        told: asyncio.Future[None] | None = None
        watch.story.begin()
        watch.story.tell(
            "🎬",
            f"a producer enqueues {self._plan.jobs} completions and {self._plan.emails} emails",
            "bold",
        )
        self._produce(watch)
        blind_since: float | None = None
        try:
            while True:
                self._stage.check()
                try:
                    await watch.look()
                    blind_since = None
                except RedisError as exc:
                    blind_since = blind_since or time.monotonic()
                    if time.monotonic() - blind_since > _BLIND_S:
                        raise DemoError(
                            f"Redis does not answer any more ({type(exc).__name__})"
                        ) from exc
                if told is None and watch.enqueued:
                    told = asyncio.ensure_future(self._trouble(watch))
                if told is not None and told.done():
                    told.result()
                view.show(watch)
                if watch.over:
                    return watch.story.elapsed_s
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            if told is not None:
                told.cancel()
                await asyncio.wait([told])

    def _produce(self, watch: Watch) -> None:
        output = self._stage.folder / "enqueued"
        output.touch()
        arguments = [
            str(ROOT / "demo" / "producer.py"),
            str(self._plan.jobs),
            str(self._plan.emails),
        ]
        # -P: not even the folder that it lies in can be imported from.
        self._stage.spawn("producer", ["-P", *arguments], stdout=output)
        watch.follow(output)

    async def _trouble(self, watch: Watch) -> None:
        sandbox = self._stage.sandbox
        try:
            state = await asyncio.to_thread(sandbox.state)
            script = happenings(
                self._plan.pace,
                organisation=state["groq"][1]["account"],
                team=state["resend"][1]["account"],
            )
            await play(
                script, sandbox, lambda happening: watch.story.tell("🎬", happening.words, "bold")
            )
        except (SandboxError, OSError, HTTPException) as exc:
            raise DemoError(f"the provider sandbox does not answer: {exc}") from exc

    async def _stay(self) -> None:
        stage, flower = self._stage, self._stage.flower
        lines = f"""
Everything is still running, until Ctrl-C.
  Flower                 {flower.url}   user {flower.user}   password {flower.password}
  the keys' states       sh {stage.tool} keys status --watch
  what happened to them  sh {stage.tool} keys audit
  more work              REDIS_URL={shlex.quote(stage.redis_url)} .venv/bin/python demo/producer.py 100 50
  for examples/          export REDIS_URL={shlex.quote(stage.redis_url)} KEYWHEEL_NAMESPACE={stage.namespace}
  bring the revoked key back, at the provider and here
                         curl -X POST {stage.sandbox.groq_base_url}/control/restore -d '{{"key": "{REVOKED}"}}'
                         sh {stage.tool} keys reset --service groq
  the logs               {stage.logs}
"""
        self._console.print(Text(lines), soft_wrap=True)
        while True:
            stage.check()
            await asyncio.sleep(_LOOK_EVERY_S)
