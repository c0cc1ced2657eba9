"""Serves the JSON endpoints for keys, on Flower's port; `docs/openapi.yaml` describes them."""

import asyncio

from redis.exceptions import RedisError

from config.current import get_settings
from config.services import SERVICES
from worker.broker_errors import BROKER_ERRORS
from worker.dashboard.errors import ApiError, BadRequest, check_service
from worker.dashboard.handlers import AdminHandler, ChangeHandler
from worker.dashboard.poller import Pools
from worker.dashboard.request_body import check_fields
from worker.key_reload import ask_workers, note_reload, sentence_of
from worker.keypool import ResetDone, resets
from worker.rotation.key_checks import CheckedKey, check_keys, opened_checkers, problems_in

_NO_KEYS = (
    "Flower has no keys to ask the providers with; run `celery -A keywheel keys check` where a "
    "worker runs."
)
_REPLY_TIMEOUT_S = 2.0
_CHECK_TIMEOUT_S = 5.0  # shorter than the poller's own timeout


class Status(AdminHandler):
    """`GET /api/admin/api-keys/status`: the keys and queue of every service."""

    async def get(self) -> None:
        """Send the state."""
        self.send_json(self.status_of(await self.poller.fresh_state()))


class LatestCalls(AdminHandler):
    """`GET /api/admin/api-keys/calls`: the latest calls with one key."""

    async def get(self) -> None:
        """Send the calls, the latest first."""
        values = self.query_values()
        check_fields(values, ("service", "key"))
        service, key = values.get("service", ""), values.get("key", "")
        if not (service and key):
            raise BadRequest("service and key are needed.")
        check_service(service)
        calls = await self.with_pools(lambda pools: pools[service].latest_calls(key))
        self.send_json({"calls": [call.as_json() for call in calls]})


class Reset(ChangeHandler):
    """`POST /api/admin/api-keys/reset`: bring keys back."""

    fields = ("service", "key", "include_disabled")

    async def post(self) -> None:
        """Reset a key, a service, or everything."""
        body = self.body()
        services = [body.service] if body.service else list(SERVICES)

        async def reset(pools: Pools) -> dict[str, ResetDone]:
            return {
                name: await pools[name].reset(
                    by=f"flower {self.admin}",
                    key_id=body.key,
                    include_disabled=body.include_disabled,
                )
                for name in services
            }

        done = await self.with_pools(reset)
        await self.poll_change()
        self.send_json(resets.as_json(done) | {"by": self.admin})


class Check(ChangeHandler):
    """`POST /api/admin/api-keys/check`: ask the providers about each key, at no cost."""

    fields = ("service", "key")

    async def post(self) -> None:
        """Check one key, the keys of one service, or all keys."""
        body = self.body()
        services = [body.service] if body.service else list(SERVICES)
        settings = get_settings()
        models = settings.models

        async def check(pools: Pools) -> list[CheckedKey]:
            if not any(
                key.secret.get_secret_value() for name in services for key in pools[name].keys
            ):
                raise ApiError(404, "unknown_key", _NO_KEYS)
            async with opened_checkers(settings, timeout_s=_CHECK_TIMEOUT_S) as checkers:
                return await check_keys(
                    {name: pools[name] for name in services},
                    checkers,
                    models=models,
                    key_id=body.key,
                )

        checked = await self.with_pools(check)
        self.send_json(
            {
                "keys": [key.as_json() for key in checked],
                # A check of one key cannot show that no key may use a model.
                "problems": list(problems_in(checked, models={} if body.key else models)),
                "by": self.admin,
            }
        )


class Reload(ChangeHandler):
    """`POST /api/admin/api-keys/reload`: have every running worker load its keys again."""

    async def post(self) -> None:
        """Ask the workers to reload, and send the answer of each worker."""
        self.body()  # each worker reloads all of its keys, so the body can have no field
        try:
            answers = await asyncio.to_thread(
                ask_workers, self.application.capp, timeout_s=_REPLY_TIMEOUT_S
            )
        except (*BROKER_ERRORS, RedisError, OSError) as exc:
            raise ApiError(503, "broker_unreachable", "The broker does not answer.") from exc
        self.poller.reload_keys_soon()
        by = f"flower {self.admin}"
        await self.with_pools(lambda pools: note_reload(pools.values(), answers, by=by))
        workers = {name: sentence_of(answer) for name, answer in answers.items()}
        self.send_json({"workers": workers, "by": self.admin})
