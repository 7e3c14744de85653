"""Runs one scoring job on a cluster with the faults installed:  python -m tests.chaos.driver ADDRESS SRC OUT WORKERS"""

import json
import os
import sys

import ray

from pipelines.score import ScoreJob, Watcher, score


def main() -> None:
    address, src, out, workers = sys.argv[1:]
    passed = {name: value for name, value in os.environ.items() if name.startswith(("RADET_TEST_", "AWS_"))}
    passed |= {"RADET_TEST_DRIVER": str(os.getpid()), "PYTHONPATH": os.getcwd()}
    environment = {"env_vars": passed, "worker_process_setup_hook": "tests.chaos.faults.install"}
    ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    manifest = score(ScoreJob(src=src, out=out, workers=int(workers)), Watcher())
    print(json.dumps({"rows": manifest["rows"], "inputs": manifest["inputs"], "work": manifest["work"]}))


if __name__ == "__main__":
    main()
