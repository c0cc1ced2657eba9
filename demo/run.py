"""One run of the demo, from the first process to the clean-up."""

import asyncio
import contextlib
import json
import shlex
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from http.client import HTTPException

from redis.exceptions import RedisError
from rich.console import Console
from rich.text import Text

from demo.environment import DemoEnvironment
from demo.errors import DemoError
from demo.plan import MODELS, Plan
from demo.processes import ROOT
from demo.scenario import REVOKED, Incident, play, scenario
from demo.summary import judge
from demo.view import Lines, Picture, View
from demo.watch import Watch
from sandbox.process import SandboxError

_REFRESH_S = 0.25
_REDIS_TIMEOUT_S = 5.0
_SIGNAL_EXIT = 128


def run(plan: Plan, *, signals: Iterable[signal.Signals]) -> int:
    """Run the demo and clean up.

    Args:
        plan: What to run.
        signals: The signals that stop it.

    Returns:
        The exit code.
    """
    return asyncio.run(_Run(plan).main(signals))


class _Run:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._console = Console()
        self._environment = DemoEnvironment(plan)
        self._deadline = time.monotonic() + plan.limit_s
        self._code: int | None = None
        self._stopped_by: signal.Signals | None = None

    async def main(self, signals: Iterable[signal.Signals]) -> int:
        loop = asyncio.get_running_loop()
        demo = asyncio.ensure_future(self._start_and_judge())

        def stop(number: signal.Signals) -> None:
            self._environment.shorten_grace()
            if self._stopped_by is None:
                self._stopped_by = number
                demo.cancel()

        for number in signals:
            loop.add_signal_handler(number, stop, number)
        code = 1
        tail_of_log = ""
        try:
            code = await demo
        except asyncio.CancelledError:
            code = self._interrupted()
        except DemoError as exc:
            self._print_error(str(exc))
            tail_of_log = exc.tail
        finally:
            code = await self._clean_up(code, tail_of_log)
        return code

    def _interrupted(self) -> int:
        number = self._stopped_by or signal.SIGTERM
        if self._code is not None:
            return self._code  # only the time of --keep was interrupted
        self._console.print(
            Text(f"stopped by {'Ctrl-C' if number is signal.SIGINT else number.name}: cleaning up")
        )
        return _SIGNAL_EXIT + number

    async def _clean_up(self, code: int, tail_of_log: str) -> int:
        keep_logs = code == 1
        left = await asyncio.to_thread(self._environment.close, keep_logs=keep_logs)
        if tail_of_log:
            self._console.print(Text(tail_of_log, style="dim"), soft_wrap=True)
        for sentence in left:
            self._print_error(sentence)
        if keep_logs and self._environment.has_logs:
            self._console.print(
                Text(f"the logs are kept in {self._environment.logs}"), soft_wrap=True
            )
        elif not left and code != 1:
            self._console.print(
                Text("nothing is left behind: every process ended, the temporary folder is gone")
            )
        return code or int(bool(left))

    def _print_error(self, sentence: str) -> None:
        self._console.print(Text(f"✗ {sentence}", style="bold red"), soft_wrap=True)

    async def _start_and_judge(self) -> int:
        environment, plan = self._environment, self._plan
        environment.open()
        async with self._view() as view:
            view.say("starting Redis and the provider sandbox")
            await environment.start_servers()
            environment.start_workers()
            environment.start_flower()
            await environment.wait_until_ready(view.say)
            watch = Watch(
                environment.redis_url,
                namespace=environment.namespace,
                variables=environment.variables,
                logs=[child.log for child in environment.workers],
                totals={"ai": plan.jobs, "email": plan.emails},
            )
            try:
                async with asyncio.timeout(max(0.1, self._deadline - time.monotonic())):
                    took_s = await self._play(watch, view)
            except TimeoutError:
                took_s = watch.timeline.elapsed_s
            finally:
                await watch.close()
        ledger = await asyncio.to_thread(environment.sandbox.ledger, full=True)
        summary = judge(watch, ledger, took_s=took_s)
        if not watch.over:
            summary.faults.insert(0, f"the jobs did not end within {plan.limit_s:g} s")
        summary.show(self._console)
        code = int(bool(summary.faults))
        if plan.keep:
            self._code = code
            await self._keep_running()
        return code

    @contextlib.asynccontextmanager
    async def _view(self) -> AsyncIterator[View]:
        flower = self._environment.flower
        where = f"Flower: {flower.url}  user {flower.user}  password {flower.password}"
        if self._plan.plain or not self._console.is_terminal or self._console.is_dumb_terminal:
            self._console.print(Text(where), soft_wrap=True)
            yield Lines(self._console)
            return
        picture = Picture(self._console, where)
        with picture.shown():
            yield picture

    async def _play(self, watch: Watch, view: View) -> float:
        """Run until every job has ended; returns how long that took, in seconds."""
        trouble: asyncio.Future[None] | None = None
        watch.timeline.begin()
        first, *others = await self._incidents()
        await self._play_incidents(watch, [first])  # before the first call, which may be the last
        watch.timeline.add(
            "🎬",
            f"a producer enqueues {self._plan.jobs} completions and {self._plan.emails} emails",
            "bold",
        )
        self._produce(watch)
        silent_since: float | None = None
        try:
            while True:
                self._environment.check()
                try:
                    await watch.refresh()
                    silent_since = None
                except RedisError as exc:
                    silent_since = silent_since or time.monotonic()
                    if time.monotonic() - silent_since > _REDIS_TIMEOUT_S:
                        raise DemoError(
                            f"Redis does not answer any more ({type(exc).__name__})"
                        ) from exc
                if trouble is None and watch.enqueued:
                    trouble = asyncio.ensure_future(self._play_incidents(watch, others))
                if trouble is not None and trouble.done():
                    trouble.result()
                view.show(watch)
                if watch.over:
                    return watch.timeline.elapsed_s
                await asyncio.sleep(_REFRESH_S)
        finally:
            if trouble is not None:
                trouble.cancel()
                await asyncio.wait([trouble])

    def _produce(self, watch: Watch) -> None:
        output = self._environment.folder / "enqueued"
        output.touch()
        arguments = [
            str(ROOT / "demo" / "producer.py"),
            str(self._plan.jobs),
            str(self._plan.emails),
        ]
        # -P keeps the script's own folder off the import path.
        self._environment.spawn("producer", ["-P", *arguments], stdout=output)
        watch.follow(output)

    async def _incidents(self) -> list[Incident]:
        with self._wrap_sandbox_errors():
            state = await asyncio.to_thread(self._environment.sandbox.state)
        return scenario(
            self._plan.pace,
            organisation=state["groq"][1]["account"],
            team=state["resend"][1]["account"],
        )

    async def _play_incidents(self, watch: Watch, incidents: list[Incident]) -> None:
        with self._wrap_sandbox_errors():
            await play(
                incidents,
                self._environment.sandbox,
                lambda incident: watch.timeline.add("🎬", incident.words, "bold"),
            )

    @contextlib.contextmanager
    def _wrap_sandbox_errors(self) -> Iterator[None]:
        try:
            yield
        except (SandboxError, OSError, HTTPException) as exc:
            raise DemoError(f"the provider sandbox does not answer: {exc}") from exc

    async def _keep_running(self) -> None:
        environment, flower = self._environment, self._environment.flower
        redis = f"REDIS_URL={shlex.quote(environment.redis_url)}"
        model = shlex.quote(json.dumps({"service": "groq", "model": MODELS[0], "code": None}))
        control = f"curl -X POST {environment.sandbox.groq_base_url}/control"
        lines = f"""
Everything keeps running until Ctrl-C.
  Flower                 {flower.url}   user {flower.user}   password {flower.password}
  the keys' states       sh {environment.tool} keys status --watch
  what happened to them  sh {environment.tool} keys audit
  more work              {redis} .venv/bin/python demo/producer.py 100 50
  for examples/          export {redis} KEYWHEEL_NAMESPACE={environment.namespace}
  bring the revoked key back, and the model that is off, at the provider and here
                         {control}/restore -d '{{"key": "{REVOKED}"}}'
                         {control}/standing -d {model}
                         sh {environment.tool} keys reset --service groq
  the logs               {environment.logs}
"""
        self._console.print(Text(lines), soft_wrap=True)
        while True:
            environment.check()
            await asyncio.sleep(_REFRESH_S)
