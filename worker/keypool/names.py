"""The pool's records in Redis: their names, and what they hold.

Instants are milliseconds since 1970 by the pool's clock; see prelude.lua.
"""

from dataclasses import dataclass
from functools import lru_cache


@lru_cache(maxsize=4096)  # an acquire names three records of each key
def _joined(namespace: str, service: str, *parts: str) -> str:
    return ":".join((f"{{{namespace}:{service}}}", *parts))


@dataclass(frozen=True, slots=True)
class BlockedScope:
    """What a field of the hash `blocks` stands for.

    Attributes:
        kind: `host`, `model`, `key`, `key_resource`, `account`, `account_model`; `unfit`, for a
            model that an account does not have; or `person`, for what a person disabled.
        owner: The key's id or the account; empty where the scope is nobody's own.
        resource: The model or resource, where the scope has one.
    """

    kind: str
    owner: str = ""
    resource: str = ""

    @classmethod
    def parse(cls, field: str) -> "BlockedScope":
        """Read the field's name: ids and accounts have no colon, models may have some."""
        kind, _, name = field.partition(":")
        if kind == "model":
            return cls(kind, resource=name)
        owner, _, resource = name.partition(":")
        return cls(kind, owner, resource)

    @property
    def shown_kind(self) -> str:
        """The kind as people see it: what is blocked, by a person or not."""
        if self.kind == "person":
            return "key" if self.owner else "host"
        return "account_model" if self.kind == "unfit" else self.kind

    def state(self, *, endless: bool) -> str:
        """What a block of this scope does: `cooling`, `disabled` or `unfit`."""
        if self.kind == "unfit":
            return self.kind
        return "disabled" if endless or self.kind == "person" else "cooling"

    def __str__(self) -> str:
        """Write the field's name."""
        match self.kind:
            case "host":
                return self.kind
            case "model":
                return f"model:{self.resource}"
            case "key" | "account" | "person":
                return f"{self.kind}:{self.owner}"
        return f"{self.kind}:{self.owner}:{self.resource}"


@dataclass(frozen=True, slots=True)
class Names:
    """Names the records of one service's pool.

    All share one hash tag, so that a cluster keeps them on one node and a script may touch them
    together. The scripts that run for each call are given the root alone and make the other names
    themselves, in the same way.

    Args:
        namespace: What stands before every name; keeps installations apart that share a Redis.
        service: The service's name.
    """

    namespace: str
    service: str

    def _name(self, *parts: str) -> str:
        return _joined(self.namespace, self.service, *parts)

    def root(self) -> str:
        """What all names begin with; no record."""
        return self._name()

    @property
    def margins(self) -> str:
        """Text: the margins of quotes, as JSON."""
        return self._name("margins")

    @property
    def leases(self) -> str:
        """Sorted set: lease id → when it expires (ms)."""
        return self._name("leases")

    @property
    def leased(self) -> str:
        """Hash: lease id → what it has reserved (MessagePack).

        - `key`, `pair` (an account × model), `cost` by what is counted, `by` (the task's id);
          `start_ms`, when the call may leave, and `lasts_ms`.
        - `took`: each dimension that the cost was taken from → the debt of its bucket then.
        - `tried`: the dimension whose limit the call goes beyond, if it does.
        - `waits`: it waits for its start and is confirmed then, unless its process died or hangs.
        """
        return self._name("leased")

    @property
    def inflight(self) -> str:
        """Hash: the clock, how many calls were reserved, when each model last answered."""
        return self._name("inflight")

    @property
    def audit(self) -> str:
        """Stream: what happened to keys, when, why and by which task."""
        return self._name("audit")

    @property
    def actions(self) -> str:
        """Stream.

        The resets and the keys taken out, beside `audit`, where thousands of other entries push
        them out.
        """
        return self._name("actions")

    @property
    def blocks(self) -> str:
        """Hash: the scope → what blocks its calls, why and until when.

        A scope is named by its kind and what it is: `host`, `model:MODEL`, `key:ID`,
        `key_resource:ID:RESOURCE`, `account:ACCOUNT`, `account_model:ACCOUNT:MODEL`,
        `unfit:ACCOUNT:MODEL`, a model that the account does not have, and `person:ID` and
        `person:`, a key and all keys that a person disabled.

        A block (MessagePack) has:

        - `until_ms` (infinite until a person acts), `since_ms`, `reason`, `by`.
        - `words`: of the person who disabled it.
        - `from_tokens`: it holds for calls of this size or more only.
        - Of a host or model that fails: `faults` in a row; `fault_ms`, the last one; and while a
          lease probes it, `probe_by` and `probe_ms`, when the next one may.
        """
        return self._name("blocks")

    @property
    def models(self) -> str:
        """Sorted set: models seen → when (ms)."""
        return self._name("models")

    @property
    def wake(self) -> str:
        """The channel of `reset`, and of `room` where a line may be served sooner than expected."""
        return self._name("wake")

    def waiting(self, wait_list: str) -> str:
        """Sorted set: line → when its first job came.

        In each process, the jobs that the same keys may serve form a line. With `:due` behind it:
        line → when it asks again. With `:step`: how long it takes until one more call fits (ms).
        """
        return self._name("waiting", wait_list)

    @property
    def keys(self) -> str:
        """Hash: the id of each key that a worker has → its label, its variable, when it was seen.

        JSON, without the key itself.
        """
        return self._name("keys")

    def key(self, key_id: str) -> str:
        """Record of one key."""
        return self._name("key", key_id)

    def account_model(self, account: str, model: str) -> str:
        """Hash of one account × model: `buckets`, and `turned_ms`.

        The latter is when the account last turned a request down, if it has served none since. The
        buckets are one map by dimension (MessagePack). Each has:

        - `limit`, `window_ms`; `level`, what is left, at `at_ms`. It refills continuously.
        - `ends_ms`: the quota of a day or month is full again then, and not before.
        - `log`: where the provider counts in windows, when calls went or will go. No `limit + 1`
          of them may fall into any window, wherever it starts.
        - `pace`: below 1 while calls are refused that should have passed; `slowed_ms`, since when.
        - `credit`: calls let through. From `TRY_AFTER` (buckets.lua) on, one goes beyond the limit
          and takes as much credit, unless headers have `stated` the limit. A try that is `lent`
          goes from 0 on, so it is paid back before the next one. `tried_ms` is the last one,
          `passed` how many passed in a row, `raises` how often the limit was raised for that.
        - `debt`: the sum of how much less there was than expected; `corrected_ms`, when last.
        - `held`: the `amount` that a refusal took out until `until_ms`; a reset puts it back.
        - `saving`: the large job (`by`) that waits for `need`, `since_ms`; whether it is `bulk`,
          when it came (`came_ms`), and until when it is saved for (`until_ms`).
        - `capped`: for a request without a cap, the provider reserves more than the limit.
        - `learned_ms`: the limit was learned from a refusal.

        The bucket `ramp` stands for a request limit that is not known yet. When that is reached,
        all calls in flight are refused, and fast, so only a few may have left within `FLIGHT_MS`
        without an answer. Once one has succeeded, they leave `apart_ms` from each other.
        """
        return self._name("account_model", account, model)
