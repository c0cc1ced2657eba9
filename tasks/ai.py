"""AI completions through Groq."""

from typing import Any

from config.current import get_settings
from worker.arguments.base import check
from worker.arguments.completion import CompletionArguments
from worker.celery import app
from worker.keypool import Lease, LeaseRequest
from worker.providers import Completion
from worker.runtime import Runtime
from worker.serving import serve
from worker.streams import AnswerStream, answer_stream, finish_stream

_SERVICE = "groq"


def _resources_of(kwargs: dict[str, Any]) -> tuple[str, ...]:
    """Return the models that a job in the queue names, in the form of `LeaseRequest.models`.

    They are not validated here, but when the job runs.
    """
    named = kwargs.get("models") or kwargs.get("model")
    if isinstance(named, str):
        return (named,)
    if isinstance(named, list):
        return tuple(dict.fromkeys(str(model) for model in named))
    return get_settings().services[_SERVICE].models


@app.task(
    bind=True,
    name="tasks.ai.complete",
    service=_SERVICE,
    streams=True,
    resources_of=staticmethod(_resources_of),
)
async def complete(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Complete a conversation with any free Groq key.

    Args:
        self: The task.
        *args: None; arguments go by name.
        **kwargs: `messages` (or `prompt`), `model`, `temperature`, … as in Groq's API; see
            `CompletionArguments`. With `stream`, the answer is written to the job's Redis stream
            while it arrives.

    Returns:
        `text`, `reasoning`, `model`, `usage`, `finish_reason`, `tool_calls` and more (see
        `groq_answer.result_of`). The result may be used unchanged as a message of the next
        completion. It also has `key` (the key's label), `attempts` (calls made) and `waited_s`
        (seconds spent waiting for a key).

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
        RequestRejected: Groq refuses the request.
    """
    if kwargs.get("stream") is not True:
        return await _complete(self, args, kwargs)
    async with answer_stream(Runtime.current().streams, self.request) as stream:
        result = await _complete(self, args, kwargs, stream)
        await finish_stream(stream, result)
    return result


async def _complete(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], stream: AnswerStream | None = None
) -> dict[str, Any]:
    arguments = check(CompletionArguments, args, kwargs)
    runtime = Runtime.current()
    models = arguments.named_models(runtime.settings.services[_SERVICE].models)
    completion = Completion.of(arguments.params(default_model=models[0]), listener=stream)

    def build(lease: Lease) -> Completion:
        if stream is not None:
            stream.calling()
        chosen = completion.with_model(lease.request.resource)
        return chosen.capped(lease.request.output_tokens) if lease.capped else chosen

    lease_request = LeaseRequest(
        model=completion.limited_as,
        resource=completion.resource,
        fallbacks=tuple(
            (alternative.limited_as, alternative.resource)
            for alternative in map(completion.with_model, models[1:])
        ),
        tokens=completion.tokens,
        input_tokens=completion.input_tokens,
        output_tokens=completion.output_tokens,
        flexible=not completion.is_capped,
    )
    return await serve(
        task,
        lease_request,
        build,
        deadline_s=arguments.deadline_s,
        dedupe_key=arguments.dedupe_key,
        on_shared=stream.repeat if stream is not None else None,
    )
