import ast
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest

import radet
from radet.config import DetectorConfig, bundled, model_id, resolve
from radet.errors import ModelError

LITE = resolve("radet-lite")


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the bundled checkpoint that a test may spoil."""
    return Path(shutil.copytree(LITE, tmp_path / "copy"))


def edit(folder, **changes):
    """Set keys of config.json, "a.b" for nested ones; `...` deletes the key."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        target = config
        for key in path:
            target = target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    file.write_text(json.dumps(config))


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_json_round_trip_is_identity(checkpoint):
    config = DetectorConfig.read(checkpoint)
    (checkpoint / "config.json").write_text(config.to_json())
    assert DetectorConfig.read(checkpoint) == config
    assert json.loads(config.to_json()) == json.loads((LITE / "config.json").read_text())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"encoder__layers": 3}, "encoder has the unknown key 'layers'"),
        ({"precision": ...}, "lacks the key 'precision'"),
        ({"probe__sigma": ...}, "probe lacks the key 'sigma'"),
        ({"precision": "fp8"}, 'precision must be "fp32" or "bf16", not "fp8"'),
        ({"encoder__family": "keras"}, 'encoder.family must be "open_clip" or'),
        ({"probe__draws": True}, "probe.draws must be a whole number, not true"),
        ({"probe__draws": 1.5}, "probe.draws must be a whole number, not 1.5"),
        ({"probe__sigma": "big"}, 'probe.sigma must be a number, not "big"'),
        ({"encoder__mean": [0.5, 0.5]}, "encoder.mean must be"),
        ({"encoder__mean": [0.5, 0.5, "x"]}, "encoder.mean[2] must be a number"),
        ({"encoder__name": None}, "encoder.name must be text, in quotes if need be, not null"),
        ({"encoder__weights": "../other/model.safetensors"}, "must not contain '..'"),
        ({"encoder__weights": "towers/../../other.safetensors"}, "must not contain '..'"),
        ({"encoder__std": [0.5, 0, 0.5]}, "every std > 0"),
        ({"encoder__dim": 1}, "dim must be from 2 to"),
        ({"probe__sigma": 0}, "sigma and blur_sigma must be > 0"),
        ({"probe__blur_size": 4}, "blur_size must be odd"),
        ({"reference__log_drift_std": 0.0}, "must be > 0"),
        ({"calibration__scale": 10**400}, "calibration.scale must be a finite number"),
        ({"encoder__dim": 10**14}, "dim must be from 2 to"),
        ({"probe__draws": 10**9}, "draws must be from 1 to 256"),
        ({"probe__seed": 2**200}, "seed >= 0 and below 2^63"),
        ({"probe__width": 8 * 10**9}, "width a multiple of 8 up to"),
        ({"probe__width": 12}, "width a multiple of 8 up to"),
        ({"probe__eps": 1.5}, "eps must be in (0, 1]"),
        ({"probe__blur_size": 10**9 + 1}, "odd and from 3 to 255"),
        ({"heads__hidden": 10**14}, "hidden and token_dims must be from 1"),
        ({"heads__token_dims": [-1] * 7}, "hidden and token_dims must be from 1"),
        ({"heads__scalars": -1}, "scalars must be from 0"),
        ({"heads__lowlevel_width": 8 * 10**9}, "lowlevel_width must be a multiple of 8 up to"),
        ({"heads__token_dims": [1] * 6}, "layers and token_dims must be as many"),
        ({"heads__branches": ["semantic", "lowlevel", "semantic"]}, "branches must name one branch at least, and none"),
        ({"heads": None}, "a learned probe needs heads"),
        ({"verdict": None}, "calibration and verdict go together"),
        ({"verdict__generated_above": 1.5}, "real_below <= generated_above <= 1 must hold"),
        ({"calibration__real": [0.5, 0.4] + [0.6] * 19}, "calibration.real must be 21 numbers that do not fall"),
        ({"heads__layers": [0, 1, 2, 3, 4, 5, -1]}, "layers must be >= 0, and none twice"),
        ({"heads__layers": [0, 1, 2, 3, 4, 5, 5]}, "layers must be >= 0, and none twice"),
        ({"crop__size": 200}, "crop.size must be a multiple of 16 with the probe drp, not 200"),
        ({"crop__size": 1, "probe__kind": "blur"}, "crop.size must be probe.blur_size at least"),
        ({"crop": []}, "crop must be an object"),
        ({"crop__size": 512}, "crop.resize"),
        ({"format_version": 2}, "this version of radet reads 1"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line_that_names_file_and_key(checkpoint, changes, says):
    edit(checkpoint, **changes)
    with pytest.raises(ModelError) as caught:
        DetectorConfig.read(checkpoint)
    assert caught.value.code == "config_invalid"
    assert str(checkpoint / "config.json") in caught.value.message
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_a_number_that_is_not_finite_once_it_is_read_is_refused(checkpoint):
    file = checkpoint / "config.json"
    scale = json.loads(file.read_text())["calibration"]["scale"]
    for infinite in ("1e999", "Infinity", "NaN"):
        file.write_text((LITE / "config.json").read_text().replace(f'"scale": {scale}', f'"scale": {infinite}'))
        with pytest.raises(ModelError, match=r"calibration\.scale must be a finite number"):
            model_id(checkpoint)


@pytest.mark.parametrize("name", ["log_drift_mean", "log_drift_std", "median_drift"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reference_is_of_finite_numbers(name, value):
    reference = DetectorConfig.read(LITE).reference
    with pytest.raises(ModelError, match=name):
        replace(reference, **{name: value})


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": NaN}', "\x00", "[" * 100_000])
def test_what_is_no_json_object_is_refused(checkpoint, text):
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        DetectorConfig.read(checkpoint)
    assert caught.value.code == "config_invalid"


def test_integers_are_numbers_too_and_reference_may_be_null(checkpoint):
    edit(checkpoint, probe__sigma=1, reference=None)
    config = DetectorConfig.read(checkpoint)
    assert type(config.probe.sigma) is float
    assert config.reference is None


def test_resolve_prefers_a_folder_and_knows_bundled_names(checkpoint, monkeypatch):
    assert resolve(checkpoint) == checkpoint
    assert resolve("radet-lite") == LITE
    shutil.copytree(LITE, checkpoint.parent / "radet-lite")
    monkeypatch.chdir(checkpoint.parent)
    assert resolve("radet-lite").resolve() != LITE.resolve()


def test_an_unknown_name_lists_the_bundled_ones(tmp_path):
    assert "radet-lite" in bundled()
    for name in ("radet-huge", str(tmp_path), "a" * 300):
        with pytest.raises(ModelError, match="radet-lite") as caught:
            resolve(name)
        assert caught.value.code == "weights_missing"


def test_a_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelError) as caught:
        DetectorConfig.read(tmp_path)
    assert caught.value.code == "weights_missing"


def test_hub_checkpoints_come_from_the_hub_cache(tmp_path):
    """A repository in the hub's own cache layout, read offline; one that is not there is an error, not a traceback."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0"
    shutil.copytree(LITE, snapshot)
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0")
    code = "from radet.config import resolve, model_id; print(model_id(resolve('hf://org/{}')))"
    offline = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    assert run(code.format("name"), **offline).stdout.strip() == model_id(LITE)
    nowhere = {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    for absent in (run(code.format("absent"), **offline), run(code.format("absent"), **nowhere)):
        assert absent.stderr.splitlines()[-1].startswith("radet.errors.ModelError: hf://org/absent cannot be fetched")


def test_neither_code_nor_pickle_is_fetched_from_the_hub(monkeypatch):
    """The hub tells by these patterns which files of a repository it fetches."""
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, allow_patterns: asked.append(allow_patterns))
    with pytest.raises(TypeError):  # it has no folder to give
        resolve("hf://org/name")
    files = ("config.json", "golden.json", "model.safetensors", "README.md", "modeling.py", "weights.bin", "a.pkl")
    fetched = [file for file in files if any(fnmatch(file, pattern) for pattern in asked[0])]
    assert fetched == ["config.json", "golden.json", "model.safetensors", "README.md"]


def test_model_id_changes_with_what_changes_a_score_and_with_nothing_else(checkpoint):
    before = model_id(checkpoint)
    assert before == model_id(LITE)
    assert len(before) == 16
    int(before, 16)
    edit(checkpoint, name="other", description="other", encoder__weights="other.safetensors", reference__source="other")
    told = {"calibration__fitted_on": "other", "calibration__real": [0.1] * 21, "calibration__generated": [0.9] * 21}
    edit(checkpoint, **told, reference__quantiles=[0.01] * 21)
    assert model_id(checkpoint) == before
    seen = {before, model_id(checkpoint, precision="bf16")}
    for change in ({"probe__seed": 1}, {"encoder__sha256": "0"}, {"crop__resize": 224}, {"reference__images": 7}):
        edit(checkpoint, **change)
        seen.add(model_id(checkpoint))
    tensors = checkpoint / "model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    seen.add(model_id(checkpoint))
    assert len(seen) == 7
    tensors.unlink()
    with pytest.raises(ModelError) as caught:
        model_id(checkpoint)
    assert caught.value.code == "weights_missing"


def test_what_a_threshold_does_to_degraded_pictures_changes_no_score(checkpoint):
    """And a checkpoint from before thresholds said so is read as it was, with the same id."""
    file = checkpoint / "config.json"
    data = json.loads(file.read_text())
    ids, found = set(), set()
    for degraded in (None, [], [{"condition": "resize:0.5", "fpr": 0.04, "tpr": 0.3}]):
        for threshold in data["thresholds"]:
            threshold.pop("degraded", None)
            if degraded is not None:
                threshold["degraded"] = degraded
        file.write_text(json.dumps(data))
        ids.add(model_id(checkpoint))
        found.add(len(DetectorConfig.read(checkpoint).thresholds[0].degraded))
    assert ids == {model_id(LITE)}
    assert found == {0, 1}


def test_config_and_model_id_need_no_torch():
    code = (
        "import sys, radet, radet.config, radet.errors, radet.score;"
        "radet.config.model_id(radet.config.resolve('radet-lite'));"
        "heavy = {'torch', 'numpy', 'PIL', 'ray', 'timm', 'transformers'} & sys.modules.keys();"
        "assert not heavy, heavy"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_method_imports_no_scale_engine():
    imported = set()
    for file in Path(radet.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            imported |= {name.partition(".")[0] for name in names}
    assert {"torch", "radet"} <= imported
    assert not imported & {"ray", "pyarrow", "fastapi", "s3fs", "fsspec", "pipelines", "jobs"}


def test_the_package_offers_what_all_names():
    assert all(getattr(radet, name) for name in radet.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = radet.nothing
