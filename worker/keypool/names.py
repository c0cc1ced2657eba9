"""Names the pool's records in Redis, and documents their contents.

Instants are milliseconds since 1970 by the pool's clock; see prelude.lua.
"""

from dataclasses import dataclass
from functools import lru_cache


@lru_cache(maxsize=4096)  # an acquire names three records of each key
def _joined(namespace: str, service: str, *parts: str) -> str:
    return ":".join((f"{{{namespace}:{service}}}", *parts))


@dataclass(frozen=True, slots=True)
class BlockedScope:
    """The scope of a block, which a field of the hash `blocks` names.

    Attributes:
        kind: `host`, `model`, `key`, `key_resource`, `account` or `account_model`; `unfit`, for a
            model that an account does not have; `person`, for a key or service that a person
            disabled.
        owner: The id of the key, or the account; empty if the scope belongs to neither.
        resource: The model or resource, if the scope has one.
    """

    kind: str
    owner: str = ""
    resource: str = ""

    @classmethod
    def parse(cls, field: str) -> "BlockedScope":
        """Read the field's name. Ids and accounts contain no colon; models may contain some."""
        kind, _, name = field.partition(":")
        if kind == "model":
            return cls(kind, resource=name)
        owner, _, resource = name.partition(":")
        return cls(kind, owner, resource)

    @property
    def shown_kind(self) -> str:
        """The kind as people see it, which is the same whether a person blocks the scope or not."""
        if self.kind == "person":
            return "key" if self.owner else "host"
        return "account_model" if self.kind == "unfit" else self.kind

    def state(self, *, endless: bool) -> str:
        """Return the state that a block of this scope causes: `cooling`, `disabled` or `unfit`."""
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

    All names share one hash tag, so that a cluster keeps the records on one node and one script may
    use them together. The scripts that run for each call get only the root, and build the other
    names from it in the same way.

    Args:
        namespace: The prefix of all names. It separates installations that share a Redis.
        service: The service's name.
    """

    namespace: str
    service: str

    def _name(self, *parts: str) -> str:
        return _joined(self.namespace, self.service, *parts)

    def root(self) -> str:
        """Return the beginning of all names. No record has this name."""
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
        """Hash: lease id → its reservation (MessagePack).

        - `key`, `pair` (an account × model), `by` (the task's id), `cost` in requests, tokens and
          so on; `start_ms`, when the call may leave; `lasts_ms`, how long after that it expires.
        - `took`: each dimension that was charged → the `debt` of its bucket at that time.
        - `tried`: the dimension whose limit the call exceeds, if any.
        - `waits`: the lease waits for its start. Its process confirms it then, unless that process
          died or hangs.
        """
        return self._name("leased")

    @property
    def inflight(self) -> str:
        """Hash: the clock, the number of calls reserved so far, when each model last served."""
        return self._name("inflight")

    @property
    def audit(self) -> str:
        """Stream: the events of keys, each with its time, its reason and the task behind it."""
        return self._name("audit")

    @property
    def actions(self) -> str:
        """Stream: the actions of people and programs, such as resets.

        They are in `audit`, too, but thousands of other entries push them out of that stream.
        """
        return self._name("actions")

    @property
    def blocks(self) -> str:
        """Hash: the scope → its block (MessagePack).

        The scopes are `host`, `model:MODEL`, `key:ID`, `key_resource:ID:RESOURCE`,
        `account:ACCOUNT`, `account_model:ACCOUNT:MODEL`; `unfit:ACCOUNT:MODEL`, for a model that
        the account does not have; and `person:ID` and `person:`, for one key and for all keys, if a
        person disabled them.

        A block has:

        - `until_ms` (infinite until a person acts), `since_ms`, `reason`, `by`.
        - `words`: the reason that the person gave who disabled the key.
        - `from_tokens`: the block holds only for calls of this number of tokens or more.
        - For a host or model that fails: `faults` in a row; `fault_ms`, the time of the last one;
          and while a lease probes it, that lease's id `probe_by`, and `probe_ms`, when the next
          lease may probe.
        """
        return self._name("blocks")

    @property
    def models(self) -> str:
        """Sorted set: a model that the provider knows → when it was last used (ms)."""
        return self._name("models")

    @property
    def wake(self) -> str:
        """Channel: the message `reset`; or `room`, if a line may be served sooner than expected."""
        return self._name("wake")

    def waiting(self, wait_list: str) -> str:
        """Sorted set: line → when its first job came (ms).

        In each process, the jobs that the same keys may serve form a line. Two more records have
        this name with a suffix. `:due` is a sorted set: line → when it asks again (ms). `:step` is
        the time until one more call fits (ms).
        """
        return self._name("waiting", wait_list)

    @property
    def keys(self) -> str:
        """Hash: the id of each key that a worker has → its description as JSON, without the secret.

        The description includes the label, the variable, and when a worker last published the key.
        """
        return self._name("keys")

    def key(self, key_id: str) -> str:
        """Return the name of one key's record, a hash."""
        return self._name("key", key_id)

    def account_model(self, account: str, model: str) -> str:
        """Return the name of one account × model: a hash of `buckets` and `turned_ms`.

        `turned_ms` is when the account last turned a request down, if it has served none since. The
        buckets are one map by dimension (MessagePack). Each bucket has:

        - `limit`, `window_ms`; `level`, how much was left at `at_ms`. It refills continuously.
        - `ends_ms`: for a quota of a day or month, when it is full again; it refills only then.
        - `log`: if the provider counts in windows, when calls left or will leave. No window may
          contain more than `limit` of them, wherever it starts.
        - `pace`: below 1 after calls were refused although there was room; `slowed_ms`: the last
          time that it was lowered.
        - `credit`: the number of calls let through. At `TRY_AFTER` (buckets.lua), one call may
          exceed the limit, unless headers have `stated` the limit; the try costs `TRY_AFTER`. If
          `lent`, a credit of 0 is enough, but it must be earned before the next try. `tried_ms` is
          the last try, `passed` the successful tries in a row, `raises` how often they raised the
          limit.
        - `debt`: by how much the level was corrected downwards in total; `corrected_ms`, when last.
        - `held`: the `amount` that a refusal took out until `until_ms`; a reset puts it back.
        - `saving`: the reservation of the large job `by`. It needs `need`, saves `since_ms`, and
          lapses at `until_ms`; the job is `bulk` or not, and came at `came_ms`.
        - `capped`: for a request without a cap, the provider reserves more than the limit.
        - `learned_ms`: when the limit was learned, if it was learned from a refusal.

        The bucket `ramp` replaces a request limit that is not known yet. When the unknown limit is
        reached, the provider refuses all calls in flight, and quickly. So only a few calls may have
        left within `FLIGHT_MS` without an answer. After the first success, they leave `apart_ms`
        after each other.
        """
        return self._name("account_model", account, model)
