"""AI completions through Groq."""

from typing import Any

from tasks.arguments import check
from tasks.completion import CompletionArguments
from worker.app import app
from worker.keypool import Want
from worker.providers import Completion
from worker.runtime import Runtime
from worker.turns import take_turn


@app.task(bind=True, name="tasks.ai.complete")
async def complete(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Complete a conversation with whichever Groq key is free.

    Args:
        self: The task.
        *args: None; arguments go by name.
        **kwargs: `messages` (or `prompt`), `model`, `temperature`, … as in Groq's API; see `CompletionArguments`.

    Returns:
        `text`, `model`, `usage`, `finish_reason`, `tool_calls`, and how it went: `key` (the key's label),
        `attempts` (calls made), `waited_s` (seconds spent waiting for a key).

    Raises:
        InvalidArguments: An argument is wrong; the message names it.
        RequestRejected: Groq refuses the request.
    """
    arguments = check(CompletionArguments, args, kwargs)
    runtime = Runtime.current()
    completion = Completion.of(arguments.params(default_model=runtime.settings.groq_model))
    want = Want(model=completion.model, topic=completion.model, tokens=completion.tokens)
    served, history = await take_turn(self, runtime.groq, want, lambda _: completion, settings=runtime.settings)
    return served.value | {
        "key": served.key,
        "attempts": history.attempts,
        "waited_s": round(history.waited_ms / 1000, 3),
    }
