"""Fixtures: a real S3 server, real Ray, and the pictures that tests score."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import skimage
import torch
from PIL import Image

from .bad_inputs import encoded, photo
from .corpus import PHOTOGRAPHS
from .image_server import ImageServer, serve_pictures
from .s3_server import S3Server, start_s3

if TYPE_CHECKING:
    from .service import Service

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# As pipelines.cluster.connected starts Ray; a loader that is kept need not import torch for the next run.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
os.environ.setdefault("RAY_enable_metrics_collection", "0")
os.environ.setdefault("RAY_task_events_report_interval_ms", "0")

# Two threads that wait for each other are slower than one wherever something else runs.
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
RADET = str(Path(sys.executable).with_name("radet"))


def as_a_user() -> dict[str, str]:
    """The environment of a command that starts a Ray of its own, with a token. Clusters of tests do without."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}


#: Files that take minutes, which begin while there is other work beside them.
LONGEST = ("test_train.py", "test_score.py", "test_kill.py", "test_evaluate.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def originals() -> Path:
    """Pictures as delivered: real and generated, JPEG, PNG and WebP."""
    folder = SHARED / "data" / "originals"
    if not folder.is_dir():
        pytest.skip("the project's picture folder ../shared/data is not there")
    return folder


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """Six photographs that scikit-image ships."""
    source = Path(skimage.__file__).parent / "data"
    return [Image.open(source / name).convert("RGB") for name in PHOTOGRAPHS]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; this process's AWS environment points to it for the whole session."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder of real pictures: the project's originals, or scikit-image's photographs where those are absent."""
    if (SHARED / "data" / "originals").is_dir():
        return SHARED / "data" / "originals"
    folder = tmp_path_factory.mktemp("pictures")
    for name, picture in zip(PHOTOGRAPHS, request.getfixturevalue("photographs"), strict=True):
        picture.save(folder / name.replace(".png", ".webp"), quality=90)
        picture.crop((0, 0, 300, 280)).save(folder / f"{name}.jpg")
    return folder


@pytest.fixture(scope="session")
def web(photographs: list[Image.Image]) -> Iterator[ImageServer]:
    """A web server that this session's runs may read from, though its address is a loopback one."""
    with serve_pictures(photographs[0].resize((90, 90))) as server:
        os.environ["RADET_HTTP_TRUSTED"] = server.host
        yield server


@pytest.fixture(scope="session")
def ray_session(s3: S3Server, web: ImageServer) -> Iterator[None]:  # after these: workers inherit the environment
    """A local Ray that the tests of this process share, so that each run starts at once."""
    import ray

    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=1 << 29,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def here() -> "Iterator[Service]":
    """The service over real HTTP, in this process."""
    from .service import service

    with service() as one:
        yield one


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A sound JPEG."""
    return encoded(photo(), "JPEG", quality=90)
