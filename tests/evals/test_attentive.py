"""The attentive probe: torch's attention is the oracle, each probe is as trained alone, and what it finds."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from nexus.errors import ConfigError, DataError
from nexus.evals import evaluate
from nexus.evals.attentive import (
    AttentiveConfig,
    AttentiveProbe,
    attention_of,
    attentive_result,
    head_shape,
    logits_of,
    train_attentive,
)
from nexus.evals.context import PatchTable
from nexus.features import Features
from tests.evals.stubs import TinyBackbone

CPU = torch.device("cpu")
QUICK = AttentiveConfig(min_steps=60, epochs=1, batch_size=32, learning_rates=(1e-3, 1e-2))


def hidden(count, classes=3, patches=9, dim=8, seed=0):
    """One patch of each image, marked by its first number, says the class; the others say any class."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.eye(dim)[1 : classes + 1]
    labels = torch.arange(count) % classes
    said = torch.randint(classes, (count, patches), generator=generator)
    where = torch.randint(patches, (count,), generator=generator)
    said[torch.arange(count), where] = labels
    tokens = codes[said] + 0.05 * torch.randn(count, patches, dim, generator=generator)
    tokens[torch.arange(count), where, 0] += 2
    mean = tokens.mean(1)
    features = Features(mean, mean, mean.unsqueeze(1), labels, tuple(map(str, range(count))))
    return PatchTable(features, tokens.half())


def test_logits_equal_ordinary_multi_head_attention():
    """torch's module, all keys and values projected, with the same weights."""
    dim, classes = 128, 5
    probe = AttentiveProbe(dim, classes, seed=3)
    assert head_shape(dim) == (2, 64)
    with torch.no_grad():
        for value in probe.parameters():
            value.normal_(std=0.3)
    tokens = torch.randn(4, 7, dim)
    key, value = (getattr(probe, name).reshape(dim, dim) for name in ("key", "value"))
    found, attention = F.multi_head_attention_forward(
        probe.query.reshape(1, 1, dim).expand(1, 4, dim),
        *(tokens.transpose(0, 1),) * 2,
        embed_dim_to_check=dim,
        num_heads=2,
        in_proj_weight=torch.cat([torch.eye(dim), key, value]),
        in_proj_bias=torch.cat([torch.zeros(2 * dim), probe.value_bias.flatten()]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=torch.eye(dim),
        out_proj_bias=torch.zeros(dim),
    )
    expected = F.linear(found[0], probe.weight, probe.bias)
    torch.testing.assert_close(logits_of([probe], tokens)[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(attention_of(probe, tokens), attention[:, 0], rtol=1e-4, atol=1e-5)


def test_every_probe_of_the_grid_equals_one_trained_alone():
    table, rows = hidden(60), torch.arange(5, 60)
    together = train_attentive(table, rows, (1e-3, 1e-2), QUICK, 3, CPU)
    for probe, rate in zip(together, (1e-3, 1e-2), strict=True):
        (alone,) = train_attentive(table, rows, (rate,), QUICK, 3, CPU)
        for ours, theirs in zip(probe.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_it_finds_the_patch_that_says_the_class():
    config = QUICK.model_copy(update={"min_steps": 300})
    result, probe = attentive_result(hidden(240), hidden(90, seed=1), config)
    assert result.value > 0.9
    test = hidden(90, seed=1)
    looked = attention_of(probe, test.patches.float()).argmax(1)
    assert float((looked == test.patches[..., 0].argmax(1)).float().mean()) > 0.9
    assert result.details["learning_rate"] in QUICK.learning_rates
    assert [entry["learning_rate"] for entry in result.details["grid"]] == list(QUICK.learning_rates)


def test_labels_that_mean_nothing_stay_at_chance():
    train = hidden(120)
    shuffled = train.features.labels[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    train = PatchTable(dataclasses.replace(train.features, labels=shuffled), train.patches)
    assert attentive_result(train, hidden(300, seed=1), QUICK)[0].value < 0.45


def test_selection_never_sees_the_test_images():
    train, test = hidden(90), hidden(60, seed=1)
    spoilt = PatchTable(dataclasses.replace(test.features, labels=test.features.labels.roll(1)), test.patches)
    first, second = (attentive_result(train, part, QUICK)[0] for part in (test, spoilt))
    assert first.details["grid"] == second.details["grid"]
    assert first.value != second.value


def test_too_few_labels_is_a_data_error():
    with pytest.raises(DataError, match="two classes"):
        attentive_result(hidden(3), hidden(9), QUICK)


def test_it_is_a_task_with_seeds_and_says_what_does_not_fit():
    spec = "synthetic:n=40,size=32,classes=2"
    settings = {"min_steps": 10, "epochs": 1}
    result = evaluate(spec, TinyBackbone(), "attentive", size=32, seeds=2, attentive=settings, device="cpu")
    assert len(result["attentive"]["seeds"]) == 2
    assert [row["features"] for row in result["table"]] == ["model", "raw pixels"]
    with pytest.raises(ConfigError, match="--limit"):
        evaluate(spec, TinyBackbone(), "attentive", size=32, attentive={"memory_gb": 1e-9}, device="cpu")
