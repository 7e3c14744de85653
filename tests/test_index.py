from pathlib import Path

from pipelines.index import Counts, Index, Known, digest
from pipelines.schema import JOIN, SAME, SCORED

A, B, C = digest("a"), digest("b"), digest("c")
V1, V2 = digest("v1"), digest("v2")
SHA1, SHA2 = b"1" * 32, b"2" * 32


def known(key: bytes, version: bytes | None, sha: bytes | None = SHA1, retry: bool = False) -> Known:
    return Known(key, version, sha, retry, 1)


def test_new_inputs_are_admitted_once_and_the_same_question_has_the_same_answer(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    assert index.admit(0, [(A, V1), (B, V1), (A, V1)]) == [True, True, False]
    assert index.admit(0, [(A, V1), (B, V1), (A, V1)]) == [True, True, False]
    assert index.counts()[:3] == (2, 0, 0)
    assert index.expected == 2


def test_only_another_version_of_a_committed_input_is_admitted(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_committed([known(A, V1), known(B, V1)])
    assert index.admit(0, [(A, V1), (B, V2), (C, V1)]) == [False, True, True]
    assert index.counts() == Counts(new=2, unchanged=1, resumed=0, repeated=0)


def test_transient_failures_are_tried_again_and_permanent_ones_are_not(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_committed([known(A, None, None, retry=True), known(B, None, None), known(C, V1, None, retry=True)])
    assert index.admit(0, [(A, None), (B, None), (C, V1), (digest("new"), V1)]) == [True, False, True, True]
    assert (index.counts().new, index.counts().again) == (3, 2)


def test_a_later_run_overrides_an_earlier_one(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_committed([known(A, V1)])
    index.add_committed([known(A, V2)])
    assert index.admit(0, [(A, V1)]) == [True]


def test_without_a_version_the_content_decides(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_committed([known(A, None, SHA1)])
    assert index.admit(0, [(A, None)]) == [True]
    assert index.claim([(SHA1, A)]) == [SAME]
    assert index.claim([(SHA2, A)]) == [SCORED]


def test_each_content_has_one_owner(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    assert index.claim([(SHA1, A), (SHA1, B), (SHA2, C)]) == [SCORED, JOIN, SCORED]
    assert index.claim([(SHA1, B), (SHA1, A)]) == [JOIN, SCORED]  # a retried task asks again


def test_content_of_an_earlier_run_is_joined(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_committed([known(A, V1, SHA1)])
    assert index.claim([(SHA1, B)]) == [JOIN]


def test_staged_inputs_are_done_and_a_join_without_its_content_is_not(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_staged("r1", [(known(A, V1, SHA1), SCORED)])
    index.add_staged("r1", [(known(B, V1, SHA1), JOIN), (known(C, V1, SHA2), JOIN)])
    assert index.admit(0, [(A, V1), (B, V1), (C, V1)]) == [False, False, True]
    assert index.counts() == Counts(new=1, unchanged=0, resumed=2, repeated=0)
    assert index.expected == 3
    assert index.claim([(SHA2, C)]) == [SCORED]


def test_a_staged_input_that_changed_is_done_again_and_counted_once(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_staged("r1", [(known(A, V1), SCORED), (known(A, V1), SCORED)])
    assert index.expected == 1
    assert index.admit(0, [(A, V2)]) == [True]
    assert index.claim([(SHA1, A)]) == [SCORED], "no committed run has its row"
    assert index.expected == 1


def test_what_an_interrupted_run_failed_at_is_tried_again_by_the_one_that_resumes_it(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_staged("r1", [(known(A, None, None, retry=True), SCORED), (known(B, V1, SHA1, retry=True), SCORED)])
    index.add_staged("r1", [(known(C, None, None), SCORED)])
    assert index.admit(0, [(A, None), (B, V1), (C, None)]) == [True, True, False]
    assert index.claim([(SHA1, C), (SHA1, B)]) == [SCORED, JOIN], "nobody has scored that content yet"
    assert (index.expected, index.counts().again) == (3, 0)


def test_the_limit_counts_what_an_interrupted_run_has_staged(tmp_path: Path) -> None:
    index = Index(tmp_path / "i", limit=2)
    index.add_staged("r1", [(known(A, V1), SCORED)])
    assert index.admit(0, [(A, V1), (B, V1), (C, V1)]) == [False, True, False]
    assert index.limit_reached
    assert index.wants(0, 2), "a task that is tried again has to do B again"
    assert not index.wants(2, 9)


def test_containers_of_the_same_version_are_skipped(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    index.add_committed([Known(A, V1, None, False, 70)])
    assert index.skip_container(A, V1)
    assert not index.skip_container(A, V2)
    assert not index.skip_container(B, V1)
    assert index.counts().unchanged == 70


def test_file_names_that_are_not_utf8_have_keys_of_their_own() -> None:
    assert digest("caf\udce9.jpg", "x") != digest("caf\udce8.jpg", "x")
