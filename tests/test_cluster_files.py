"""cluster/: what schemas can say, and what they cannot: pins, entrypoints, resources, metric names."""

import gzip
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import ray
import ray.autoscaler
import typer
import yaml

from jobs.cli import app
from jobs.shipped import RECIPES, shipped
from pipelines.plan import Plan
from radet.config import QUANTILES, CalibrationConfig, DetectorConfig, resolve
from radet.shift import psi

from .conftest import ROOT, SHARED

CLUSTER = ROOT / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
RAY = {"raycluster.yaml": [], "raycronjob-nightly.yaml": ["jobTemplate", "rayClusterSpec"]}
RAY |= {"rayjob-train.yaml": ["rayClusterSpec"], "rayservice.yaml": ["rayClusterConfig"]}
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every RayCluster spec there is, by file."""
    for name, path in RAY.items():
        (document,) = documents(CLUSTER / "kuberay" / name)
        spec = document["spec"]
        for key in path:
            spec = spec[key]
        yield name, spec


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_every_manifest_is_valid_to_its_schema() -> None:
    file = SHARED / "kuberay" / "schemas.json.gz"
    if not file.is_file():
        pytest.skip("KubeRay's schemas are not there")
    schemas = json.loads(gzip.decompress(file.read_bytes()))
    checked = 0
    for manifest in MANIFESTS:
        for document in documents(manifest):
            if document["apiVersion"].startswith("ray.io/"):
                validator = jsonschema.Draft7Validator(schemas[f"{document['apiVersion']}/{document['kind']}"])
                errors = [f"{manifest.name}: {error.message}" for error in validator.iter_errors(document)]
                assert not errors
                checked += 1
    assert checked == len(RAY)


def test_ray_up_takes_its_file() -> None:
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    validate_config(config)
    defaults = yaml.safe_load((Path(ray.autoscaler.__file__).parent / "aws" / "defaults.yaml").read_text())
    assert set(config) <= set(defaults), "a key that the provider does not know"
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "--num-cpus=0" in " ".join(config["head_start_ray_commands"])
    spot = {name for name, made in types.items() if "InstanceMarketOptions" in made["node_config"]}
    assert spot == {"gpu_spot", "decode_spot"}
    same = ("resources", "node_config")
    on_demand, cheap = ({key: types[name][key] for key in same} for name in ("gpu_on_demand", "gpu_spot"))
    assert cheap["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert on_demand == cheap, "the fallback is the same machine"
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]
    assert types["gpu_spot"]["min_workers"] >= 1, "else radet score would plan without GPUs"


@pytest.mark.parametrize(("name", "spec"), list(clusters()), ids=[name for name, _ in clusters()])
def test_clusters_agree_with_the_pins_and_with_what_the_pipelines_ask_for(name: str, spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == PINS["ray"] == ray.__version__
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"] == {"mode": "token", "secretName": "radet-ray-token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["rayStartParams"]["object-spilling-directory"] == "/spill"
    found: dict[str, float] = {"CPU": 0.0, "GPU": 0.0}
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        found["CPU"] += group["minReplicas"] * float(limits["cpu"])
        found["GPU"] += group["minReplicas"] * float(limits.get("nvidia.com/gpu", 0))
    plan = Plan.of(found, None)
    assert plan.device == "cuda", "the nodes that are there at the start have a GPU"
    assert plan.loaders >= 1


@pytest.mark.parametrize(("name", "spec"), list(clusters()), ids=[name for name, _ in clusters()])
def test_pods_are_not_root_and_secrets_are_references(name: str, spec: dict[str, Any]) -> None:
    for pod in pods(spec):
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert "env" not in container
        mounts, volumes = ({entry["name"] for entry in owner} for owner in (container["volumeMounts"], pod["volumes"]))
        assert mounts == volumes
        gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        tag = f"{version('radet')}-{'cuda' if gpu else 'cpu'}"
        assert container["image"].endswith(f"/radet:{tag}")
    names = {document["metadata"]["name"] for document in documents(CLUSTER / "kuberay" / "configuration.yaml")}
    asked = {pod["serviceAccountName"] for pod in pods(spec)} | {
        entry["configMapRef"]["name"]
        for pod in pods(spec)
        for entry in pod["containers"][0]["envFrom"]
        if "configMapRef" in entry
    }
    assert asked <= names


def test_no_file_holds_a_secret() -> None:
    for file in CLUSTER.rglob("*"):
        if file.is_file():
            assert not re.search(
                r"AKIA[0-9A-Z]{16}|(?i:secret_access_key|password|token): *[\"']?[A-Za-z0-9/+]{20,}", file.read_text()
            )


def entrypoints() -> Iterator[tuple[str, str]]:
    for manifest in MANIFESTS:
        for document in documents(manifest):
            spec = document.get("spec", {})
            entrypoint = spec.get("jobTemplate", spec).get("entrypoint")
            if entrypoint:
                yield manifest.name, entrypoint


@pytest.mark.parametrize(("name", "entrypoint"), list(entrypoints()))
def test_entrypoints_are_commands_that_exist(name: str, entrypoint: str) -> None:
    program, command, *arguments = shlex.split(entrypoint)
    assert program == "radet"
    commands: Any = typer.main.get_command(app)
    context = commands.commands[command].make_context(command, arguments)  # parses; refuses what it does not know
    assert context.params["address"] == "auto"
    config = context.params.get("config")
    if config is not None:
        assert shipped(config, RECIPES), "what the image has"


def test_the_nightly_manifest_is_the_nightly_job() -> None:
    from jobs.jobfile import read

    commands = dict(entrypoints())
    assert shlex.split(commands["raycronjob-nightly.yaml"]) == read(ROOT / "jobs" / "nightly-score.yaml").arguments
    assert sorted(shlex.split(commands["rayjob-train.yaml"])) == sorted(read(ROOT / "jobs" / "train.yaml").arguments)


def test_the_service_is_the_serve_config() -> None:
    (document,) = documents(CLUSTER / "kuberay" / "rayservice.yaml")
    inline = yaml.safe_load(document["spec"]["serveConfigV2"])
    config = yaml.safe_load((CLUSTER / "serve-gpu.yaml").read_text())
    (ours,), (theirs,) = inline["applications"], config["applications"]
    for key in ("name", "route_prefix", "import_path"):
        assert ours[key] == theirs[key]
    assert set(ours["args"]) <= set(theirs["args"])
    assert ours["args"]["gpus"] == theirs["args"]["gpus"] == 1
    known = {deployment["name"]: set(deployment["user_config"]) for deployment in theirs["deployments"]}
    for deployment in ours["deployments"]:
        assert set(deployment["user_config"]) <= known[deployment["name"]]


def test_the_image_follows_the_pins() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert f'image.version="{version("radet")}"' in text
    assert text.count("--constraint constraints.txt") == 6
    alone = "an index of torch has not all that torch depends on, at its pin"
    assert re.search(r'--no-deps [^;&]*--index-url "\$TORCH_INDEX" torch torchvision', text), alone
    assert text.count("USER 1000:1000") == 2
    assert text.count("HEALTHCHECK") == 1
    copied = set(re.findall(r"^COPY (?!--from)(.+?) \S+$", text, re.MULTILINE))
    for source in {part for line in copied for part in line.split()}:
        assert (ROOT / source).exists(), source
        assert f"!{source}\n" in (ROOT / ".dockerignore").read_text()
    images = {f"{version('radet')}-{kind}" for kind in ("cpu", "cuda")}
    for file in CLUSTER.rglob("*.yaml"):
        assert set(re.findall(r"/radet:(\S+)", file.read_text())) <= images


def monitoring(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents(CLUSTER / "prometheus-rules.yaml") if document["kind"] == kind]


def alerts() -> Iterator[dict[str, Any]]:
    (rules,) = monitoring("PrometheusRule")
    for group in rules["spec"]["groups"]:
        yield from group["rules"]


def expressions() -> Iterator[str]:
    for rule in alerts():
        assert {"alert", "expr", "labels", "annotations"} <= set(rule)
        assert {"summary", "action"} == set(rule["annotations"])
        yield rule["expr"]
    dashboard = json.loads((CLUSTER / "grafana" / "radet.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def metrics(prefix: str) -> set[str]:
    found = {name for text in expressions() for name in re.findall(rf"\b{prefix}[a-z0-9_]+", text)}
    return {re.sub(r"_bucket$", "", name) for name in found} - {"ray_io_cluster"}


def test_rays_metrics_exist() -> None:
    """In Ray's own dashboards, which name every metric that it exports."""
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    text = "".join(file.read_text() for file in folder.glob("*.py"))
    used = metrics("ray_")
    assert len(used) > 5
    assert not {name for name in used if not re.search(rf"\b{name}\b", text)}


def test_our_metrics_exist() -> None:
    text = (ROOT / "pipelines" / "observe.py").read_text()
    used = metrics("radet_")
    assert len(used) > 5
    assert not {name for name in used if not re.search(rf"\b{name}\b", text)}


def test_the_endpoint_is_asked_for_its_metrics_once() -> None:
    """Every pod of it answers for all; Ray's own metrics are each pod's."""
    (spec,) = (spec for name, spec in clusters() if name == "rayservice.yaml")
    asked = []
    for monitor in monitoring("PodMonitor"):
        for number, group in enumerate((spec["headGroupSpec"], *spec["workerGroupSpecs"])):
            kind = "worker" if number else "head"
            labels = {"ray.io/is-ray-node": "yes", "ray.io/node-type": kind}  # which KubeRay sets
            if monitor["spec"]["selector"]["matchLabels"].items() <= labels.items():
                ports = {port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]}
                endpoints = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
                asked += [(kind, port) for port in endpoints & ports]
    assert sorted(asked) == [("head", "metrics"), ("head", "serve"), ("worker", "metrics")]


def test_the_alert_of_a_failed_night_ends_before_the_next_ones() -> None:
    """Its RayJob stays, and has failed for good."""
    (expr,) = (rule["expr"] for rule in alerts() if rule["alert"] == "RadetNightlyFailed")
    failed = r"kuberay_job_deployment_status\{[^}]*deployment_status=\"Failed\"\}"
    assert re.fullmatch(rf"{failed} == 1 unless on\(name\) {failed} offset 20h == 1", expr)


def test_an_endpoint_that_is_gone_is_an_alert_and_a_batch_that_takes_its_time_is_none() -> None:
    found = {rule["alert"]: rule["expr"] for rule in alerts()}
    (asked,) = (m["metadata"] for m in monitoring("PodMonitor") if m["metadata"]["name"] == "radet-serve")
    job = f"{asked['namespace']}/{asked['name']}"  # as the Prometheus operator calls it
    assert f'or min by (ray_io_cluster) (up{{job="{job}"}}) == 0' in found["RadetNothingScores"]
    assert 'radet_request_seconds_bucket{route="/v1/score"}' in found["RadetSlow"]


def test_the_drift_alert_is_of_changes() -> None:
    """Steady traffic is unlike the references of a checkpoint, whatever share of it is generated."""
    (expr,) = (rule["expr"] for rule in alerts() if rule["alert"] == "RadetScoresDrift")
    past = r"avg_over_time\(radet_score_shift\{statistic=\"psi\"\}\[7d\] offset 1h\)"
    found = re.fullmatch(
        rf"abs\(max by \(value, reference\) \(radet_score_shift\{{statistic=\"psi\"\}}\) "
        rf"- avg by \(value, reference\) \({past}\)\) > ([0-9.]+)",
        expr,
    )
    assert found
    limit = float(found[1])
    rng = np.random.default_rng(0)
    for name in ("radet-lite", "radet-clip-b16"):
        calibration = DetectorConfig.read(resolve(name)).calibration
        assert calibration is not None

        def shift(share: float, reference: Sequence[float], kept: CalibrationConfig = calibration) -> float:
            generated = rng.random(2000) < share
            at = rng.random(2000)
            steps = np.array(QUANTILES)
            p = np.where(generated, np.interp(at, steps, kept.generated), np.interp(at, steps, kept.real))
            return psi(p, reference)

        for reference in (calibration.real, calibration.generated):
            for share in (0.0, 0.1, 0.3, 0.5, 0.7):
                assert abs(shift(share, reference) - shift(share, reference)) < limit
        assert max(shift(0.1, calibration.real), shift(0.1, calibration.generated)) > limit, "why it is no plain limit"
        assert abs(shift(0.7, calibration.real) - shift(0.1, calibration.real)) > limit


def test_policies_let_in_what_is_needed_and_no_more() -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in documents(CLUSTER / "kuberay" / "networkpolicies.yaml")}
    deny = policies["radet-default-deny"]
    assert (deny["podSelector"], deny["policyTypes"]) == ({}, ["Ingress", "Egress"])
    assert "ingress" not in deny
    assert "egress" not in deny
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule.get("from"), f"{name} lets everyone in"
    (outside,) = (rule["to"][0]["ipBlock"] for rule in policies["radet-egress"]["egress"] if "ipBlock" in rule["to"][0])
    assert "169.254.0.0/16" in outside["except"]
    labels = {"radet/may-submit": "true"}
    for name in ("raycronjob-nightly.yaml", "rayjob-train.yaml"):
        (document,) = documents(CLUSTER / "kuberay" / name)
        spec = document["spec"].get("jobTemplate", document["spec"])
        assert spec["submitterPodTemplate"]["metadata"]["labels"] == labels
