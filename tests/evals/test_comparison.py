"""Comparing models: the paired bootstrap against the t test, Holm by hand, planted differences and noise."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

from nexus import cli
from nexus.errors import ConfigError, RunError
from nexus.evals.bootstrap import bootstrap_scores
from nexus.evals.compare import compare
from nexus.evals.comparison import differences, holm, paired
from nexus.evals.task import TaskResult, mean_score
from nexus.models.vision import VisionTransformer
from nexus.weights import save_backbone
from tests.evals.stubs import TinyBackbone

SPEC = "synthetic:n=60,size=32,classes=3"
QUICK = {"linear": {"min_steps": 5, "epochs": 1, "learning_rates": [0.1]}}


def result(values, *, better="higher", **settings) -> TaskResult:
    values = torch.as_tensor(values, dtype=torch.float64)
    return TaskResult(
        metric="x",
        value=float(values.mean()),
        names=tuple(map(str, range(len(values)))),
        score=mean_score(values),
        higher_is_better=better == "higher",
        **settings,
    )


def noisy_pair(seed: int, shift: float, count: int = 200):
    """Two models that share what is hard about an image, and differ by `shift` plus a little of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=count)
    return (shared + 0.1 * rng.normal(size=count) + shift), (shared + 0.1 * rng.normal(size=count))


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_paired_bootstrap_is_near_the_paired_t_test():
    a, b = noisy_pair(0, 0.02)
    scores = [bootstrap_scores(mean_score(torch.as_tensor(x)), len(x), 4000) for x in (a, b)]
    (low, high), p = paired(*scores, float((a - b).mean()))
    test = stats.ttest_rel(a, b)
    expected = test.confidence_interval(0.95)
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.1 * width)
    assert high == pytest.approx(expected.high, abs=0.1 * width)
    assert p == pytest.approx(test.pvalue, rel=0.35)


def test_a_small_planted_difference_is_found_where_the_intervals_overlap():
    a, b = noisy_pair(1, 0.05)
    found = differences({"a": {"t": result(a)}, "b": {"t": result(b)}})[0]
    assert found.better == "a"
    assert found.interval[0] > 0
    spread = a.std() / math.sqrt(len(a))
    assert abs(found.difference) < spread, "unpaired intervals would say nothing"


def test_lower_may_be_better():
    a, b = noisy_pair(1, 0.05)
    results = {"a": {"t": result(a, better="lower")}, "b": {"t": result(b, better="lower")}}
    assert differences(results)[0].better == "b"


def test_noise_is_rarely_called_real():
    """Four models without a difference, six comparisons, many times: some is called real in 5 % of them."""
    wrong = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=80)
        models = {str(i): {"t": result(shared + rng.normal(size=80), resamples=150)} for i in range(4)}
        wrong += any(one.better for one in differences(models))
    assert wrong <= 5  # 1.5 expected; 6 or more have a probability of 0.3 %


def test_parts_are_compared_too_and_equal_answers_say_so():
    values = [0.0, 1, 1, 0, 1]
    whole = {"t": result(values, parts={"p": result(values)})}
    found = differences({"a": whole, "b": whole})
    assert [one.task for one in found] == ["t", "t/p"]
    assert all(one.same_answers and one.p_adjusted == 1 and one.better is None for one in found)


def test_other_test_images_cannot_be_compared():
    with pytest.raises(RunError, match="not tested on the same images"):
        differences({"a": {"t": result([0.0, 1])}, "b": {"t": result([0.0, 1, 1])}})


def test_models_side_by_side(tmp_path):
    networks = {}
    for seed, name in ((1, "one"), (1, "twin"), (2, "two")):
        torch.manual_seed(seed)
        networks[name] = TinyBackbone()
    found = compare(SPEC, networks, "knn,linear", size=32, device="cpu", out=tmp_path / "c", **QUICK)
    assert json.loads((tmp_path / "c" / "compare.json").read_text()) == found
    assert found["same"] == [["one", "twin"]]
    assert [(row["features"], row["task"]) for row in found["table"]] == [
        (name, task) for task in ("knn", "linear") for name in ("one", "twin", "two", "raw pixels")
    ]
    assert len(found["differences"]) == 2 * 6
    twins = [one for one in found["differences"] if {one["a"], one["b"]} == {"one", "twin"}]
    assert all(one["same_answers"] for one in twins)
    with pytest.raises(RunError, match="exists"):
        compare(SPEC, networks, out=tmp_path / "c")


def test_names_are_short_and_different():
    torch.manual_seed(0)
    pair = [TinyBackbone(), TinyBackbone()]
    found = compare(SPEC, pair, "knn", size=32, device="cpu", baseline=False)
    assert list(found["models"]) == ["TinyBackbone 1", "TinyBackbone 2"]
    with pytest.raises(ConfigError, match="two models or more"):
        compare(SPEC, pair[:1], "knn")
    with pytest.raises(ConfigError, match="named twice"):
        compare(SPEC, ["runs/a", "runs/a"], "knn")


@pytest.mark.parametrize("form", ["--models A B C", "--models A --models B --models C", "--models A,B,C"])
def test_the_command_takes_models_in_any_form(tmp_path, capfd, form):
    for seed, name in enumerate("ABC"):
        torch.manual_seed(seed)
        network = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2)
        (tmp_path / name).mkdir()
        save_backbone(network, tmp_path / name, provenance={}, mean=[0.5] * 3, std=[0.5] * 3)
    words = form
    for name in "ABC":
        words = re.sub(rf"\b{name}\b", str(tmp_path / name), words)
    rest = ["--data", SPEC, "--task", "knn", "knn.k=[5]", "--device", "cpu", "--out", str(tmp_path / "c")]
    assert cli.run(["compare", *words.split(), *rest]) == 0
    said = capfd.readouterr().out
    found = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert len(found["models"]) == 3
    assert found["results"][next(iter(found["models"]))]["knn"]["headline_k"] == 5
    assert "raw pixels" in said
    assert "Holm" in said
