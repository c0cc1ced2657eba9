"""Selects, from the keys of this process, the candidates of an acquire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from config.api_key import ApiKey
from worker.keypool.leases import LeaseRequest
from worker.redis.resp import Encoded, encode

_CHOICES = 256
"""How many selections are cached. If there are more, the whole cache is cleared.

A selection depends only on the keys and accounts that a job excludes or requires, so there are few.
"""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Some keys, in the order in which a script gets them.

    Attributes:
        keys: The keys.
        accounts: The account of each key, in the same order.
        arguments: The id and the account of each key, as acquire.lua reads them.
    """

    keys: tuple[ApiKey, ...]
    accounts: tuple[str, ...]
    arguments: Encoded


class KeyDirectory:
    """Knows the keys of this process, and the account that each was last seen to belong to.

    Each call needs a selection, and selections seldom change. So they are cached until keys or
    accounts change.

    Args:
        keys: The keys of this process.
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self.keys: tuple[ApiKey, ...] = ()
        self.accounts: Mapping[str, str] = {}
        self._choices: dict[tuple[frozenset[str], frozenset[str], str], Candidates] = {}
        self.replace(keys)

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """Replace the keys. The accounts of keys that stay remain known."""
        self.keys = tuple(keys)
        self.accounts = {key.id: self.accounts.get(key.id) or key.account or key.id for key in keys}
        self._choices.clear()

    def learn(self, accounts: Mapping[str, str]) -> None:
        """Note the accounts of keys, by key id."""
        self.accounts = {**self.accounts, **accounts}
        self._choices.clear()

    def candidates(self, lease_request: LeaseRequest) -> Candidates:
        """Return the keys that may serve a job."""
        choice = (lease_request.exclude, lease_request.exclude_accounts, lease_request.account)
        found = self._choices.get(choice)
        if found is None:
            if len(self._choices) >= _CHOICES:
                self._choices.clear()
            found = self._choices[choice] = self._choose(lease_request)
        return found

    def _choose(self, lease_request: LeaseRequest) -> Candidates:
        accounts = self.accounts
        keys = tuple(
            key
            for key in self.keys
            if key.id not in lease_request.exclude
            and accounts[key.id] not in lease_request.exclude_accounts
            and (not lease_request.account or lease_request.account in {accounts[key.id], key.id})
        )
        accounts_of_keys = tuple(accounts[key.id] for key in keys)
        return Candidates(
            keys,
            accounts_of_keys,
            encode(*(part for key in keys for part in (key.id, accounts[key.id]))),
        )
