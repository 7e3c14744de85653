"""One hash for the same tensors, whoever wrote the file."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load, save, save_file

from radet.config import bundled, model_id, resolve
from radet.errors import ModelError
from radet.packed import packed_sha256, read_packed


@pytest.mark.parametrize("name", bundled())
def test_of_the_bundled_files_it_is_the_file_s_own(name):
    data = read_packed(resolve(name))
    assert packed_sha256(data, name) == hashlib.sha256(data).hexdigest()


def test_metadata_and_order_change_no_hash_and_everything_else_does(tmp_path):
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "ä": torch.ones(1), "a": torch.zeros(())}
    same = packed_sha256(save(tensors), "x")
    assert packed_sha256(save(tensors, metadata={"format": "pt"}), "x") == same
    assert packed_sha256(reversed_file(tensors), "x") == same
    others = [
        tensors | {"b": torch.arange(6.0)},
        tensors | {"b": torch.arange(6.0).reshape(2, 3).half()},
        tensors | {"a": torch.ones(())},
        tensors | {"c": torch.ones(1)},
    ]
    assert len({same, *(packed_sha256(save(other), "x") for other in others)}) == 5


def reversed_file(tensors):
    """A file that holds them in another order."""
    header, body = {}, b""
    for name in sorted(tensors, reverse=True):
        part = tensors[name].numpy().tobytes()
        offsets = [len(body), len(body) + len(part)]
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": offsets}
        body += part
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + body
    assert all(torch.equal(value, tensors[name]) for name, value in load(data).items())
    return data


@pytest.mark.parametrize("header", ["", "{", "[]", '{"a": 1}', '{"a": {"data_offsets": [0]}}', "[" * 100_000])
def test_what_is_no_such_file_says_so(header):
    with pytest.raises(ModelError, match=r"here is no readable safetensors file") as caught:
        packed_sha256(len(header).to_bytes(8, "little") + header.encode(), "here")
    assert caught.value.code == "weights_mismatch"


def test_a_checkpoint_that_was_written_again_keeps_its_id(tmp_path):
    lite = resolve("radet-lite")
    (tmp_path / "config.json").write_bytes((lite / "config.json").read_bytes())
    save_file(load(read_packed(lite)), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert model_id(tmp_path) == model_id(lite)
