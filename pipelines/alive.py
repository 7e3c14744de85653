"""Whether what a service runs on is still there. Whoever asks Serve itself waits for ever where Ray is gone."""

import socket

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

_ANSWERS_S = 5.0


def lost() -> str | None:
    """What the connected cluster has lost of what a service cannot do without, in words; None where all is there."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_S).close()
    except OSError:
        return "Ray's head"
    if not any(node["Alive"] for node in ray.nodes()):
        return "Ray's node"
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    except ValueError:  # by `serve shutdown`, say: what only fails is started again, under its name
        return "Serve"
    return None
