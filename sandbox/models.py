"""The models of the simulated Groq: which exist, which were retired, and which reason.

The lists follow Groq's list of deprecations of November 2026. The command line (`--groq-models`)
and the keys file (`living`) may name other models. An organisation also has the models that its own
`models` name.
"""

DEFAULT_MODELS = ("openai/gpt-oss-20b", "openai/gpt-oss-120b")
"""The models that exist by default."""

_DECOMMISSIONED = frozenset(
    {
        "deepseek-r1-distill-llama-70b",
        "gemma-7b-it",
        "gemma2-9b-it",
        "llama-3.1-70b-versatile",
        "llama3-70b-8192",
        "llama3-8b-8192",
        "mixtral-8x7b-32768",
        "qwen-qwq-32b",
    }
)
_REASONING_SHARE = {"low": 1 / 6, "medium": 1 / 3, "high": 2 / 3}
EFFORTS = tuple(_REASONING_SHARE)
"""The values of `reasoning_effort` for a model that reasons."""


def reasons(model: str) -> bool:
    """Whether a model reasons before it answers."""
    return model.startswith("openai/gpt-oss")


def reasoning_tokens(model: str, effort: str | None, tokens: int) -> int:
    """Return how many tokens of an answer a model spends on reasoning; 0 if it does not reason."""
    return int(tokens * _REASONING_SHARE[effort or "medium"]) if reasons(model) else 0


def missing_code(model: str) -> str:
    """Return the code of the refusal for an unknown model.

    Only models that were retired long ago have a code of their own.
    """
    return "model_decommissioned" if model in _DECOMMISSIONED else "model_not_found"
