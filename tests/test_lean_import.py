"""A scorer does without torch's compiler, and whoever wants it still gets it, whole."""

import subprocess
import sys

import pytest


def python(code: str) -> str:
    """What this code prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_scorer_never_imports_the_compiler() -> None:
    code = """
import sys, numpy as np
from radet import Detector
Detector.from_pretrained("radet-lite").evidence(np.zeros((1, 224, 224, 3), np.uint8))
print([name for name in sys.modules if name == "sympy" or name.startswith("torch._dynamo")])
"""
    assert python(code) == "[]"


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_the_compiler_works_afterwards(library: str) -> None:
    code = f"""
import torch
from radet.lean_import import without_compiler
with without_compiler():
    import {library}
import torchvision, torch._dynamo
boxes = torch.tensor([[0., 0, 0, 4, 4]])
assert torchvision.ops.roi_align(torch.arange(64.).reshape(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)
assert torch._dynamo.__file__ and torch._dynamo.is_compiling() is False
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist())
"""
    assert python(code) == "[2.0, 2.0]"


def test_whoever_asks_for_more_gets_the_real_one() -> None:
    code = """
import torch
from radet.lean_import import without_compiler
with without_compiler():
    import torch._dynamo as early
    assert early.disable(len) is len and early.disable(recursive=False)(len) is len
    from torch._dynamo import config
    print(type(config).__name__, early.__name__)
import torch._dynamo as late
assert late is not early and late.config is config
"""
    assert python(code) == "ConfigModuleInstance torch._dynamo"


def test_a_compiler_that_is_there_already_stays() -> None:
    code = """
import torch._dynamo as real, sys
from radet.lean_import import without_compiler
with without_compiler():
    assert sys.modules["torch._dynamo"] is real
assert sys.modules["torch._dynamo"] is real
"""
    assert python(code) == ""
