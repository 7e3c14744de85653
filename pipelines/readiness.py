"""Whether a service that starts can score. Replicas that are front and scorer in one stay up without a detector, to say
why at /readyz, so somebody else has to tell Serve that the deployment failed. And whether one that starts again is the
last, so that it has to stay up to say why it cannot.
"""

import asyncio
import time

from ray import serve

from pipelines.remote import MonitorClient
from radet.errors import ConfigError, ModelError

_LOOK_EVERY_S = 0.5


async def until_ready(monitor: MonitorClient) -> None:
    """Returns when a scorer is ready. Raises ModelError or ConfigError: the first problem that is told from now on."""
    begun = time.monotonic()
    while True:
        try:
            ready = await monitor.models()
            told = await monitor.problems(time.monotonic() - begun)
        except Exception:  # noqa: BLE001 - not up yet, for whatever reason
            ready, told = [], []
        if ready:
            return
        for problem in told:
            if problem.code in ModelError.codes:
                raise ModelError(problem.code, problem.message)
            raise ConfigError(problem.message)
        await asyncio.sleep(_LOOK_EVERY_S)


def replaces_the_last() -> bool:
    """Asked by a replica that starts: was its deployment up before, and is no other replica of it running now? If this
    one fails too, nobody is left to say why."""
    context = serve.get_replica_context()
    app = serve.status().applications[context.app_name]
    return app.status != "DEPLOYING" and not app.deployments[context.deployment].replica_states.get("RUNNING")
