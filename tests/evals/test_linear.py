"""The probe grid against plain SGD, one probe at a time; what selection may see; what it reaches."""

import dataclasses

import pytest
import torch

from nexus.errors import DataError
from nexus.evals.linear import (
    LinearConfig,
    batches,
    evaluate_linear,
    first_probes,
    probe_inputs,
    train_probes,
)
from nexus.evals.splits import stratified
from nexus.features import Features

QUICK = LinearConfig(min_steps=40, epochs=1, batch_size=32)
CPU = torch.device("cpu")


def table(count, classes=4, dim=6, layers=3, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, layers + 1, dim, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % classes
    tokens = centres[labels] + noise * torch.randn(count, layers + 1, dim, generator=generator)
    names = tuple(str(i) for i in range(count))
    return Features(tokens[:, layers - 1], tokens[:, layers], tokens[:, :layers], labels, names)


def alone(x, y, rate, config, classes, rows):
    """One probe with torch's own modules, loss, optimiser and scheduler."""
    probe = torch.nn.Linear(x.shape[1], classes)
    start = first_probes(1, classes, x.shape[1], config.seed)
    probe.load_state_dict({"weight": start.weight[0], "bias": start.bias[0]})
    optimizer = torch.optim.SGD(probe.parameters(), rate * config.batch_size / 256, momentum=0.9)
    steps = config.steps(len(rows))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for chosen in batches(rows, config.batch_size, steps, config.seed):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(probe(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    return probe


@pytest.mark.parametrize("n_last_blocks", [1, 2])
@pytest.mark.parametrize("avgpool", [False, True])
def test_every_probe_of_the_grid_equals_one_trained_alone(n_last_blocks, avgpool):
    data, rows = table(90), torch.arange(5, 85)
    rates = (1e-3, 0.05, 0.7)
    probes = train_probes((data,), rows, n_last_blocks, avgpool, rates, QUICK, 4, CPU)
    x = data.layer_cls[:, -n_last_blocks:].reshape(90, -1)
    x = torch.cat([x, data.mean_patch], 1) if avgpool else x
    assert torch.equal(x, probe_inputs(data, torch.arange(90), n_last_blocks, avgpool))
    for index, rate in enumerate(rates):
        lone = alone(x, data.labels, rate, QUICK, 4, rows)
        torch.testing.assert_close(probes.weight[index], lone.weight.data, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(probes.bias[index], lone.bias.data, atol=1e-5, rtol=1e-4)


def test_separable_data_is_learned():
    result = evaluate_linear(table(200, noise=0.1), table(60, noise=0.1, seed=1))
    assert result["top1"] > 0.99
    assert result["held_out_top1"] > 0.99
    assert result["top5"] is None
    assert result["chance"] == 0.25
    assert len(result["grid"]) == 2 * 2 * 13
    assert result["setting"]["n_last_blocks"] in (1, 3)
    assert result["interval"][0] > 0.9


def test_labels_that_mean_nothing_stay_at_chance():
    train, test = table(200), table(400, seed=1)
    train = dataclasses.replace(train, labels=train.labels[torch.randperm(200)])
    assert evaluate_linear(train, test, QUICK)["top1"] < 0.45


def test_selection_never_sees_the_test_images():
    train, test = table(120, noise=2.0), table(60, noise=2.0, seed=1)
    shuffled = dataclasses.replace(test, labels=test.labels.roll(1), cls=test.cls + 3)
    first, second = (evaluate_linear(train, part, QUICK) for part in (test, shuffled))
    for key in ("setting", "held_out_top1", "grid"):
        assert first[key] == second[key]
    assert first["top1"] != second["top1"]


def test_held_out_images_are_not_learned_from_while_choosing():
    """Garbage in the held-out rows changes how the grid scores, but no probe of the grid."""
    train = table(100)
    fit, held = stratified(train.labels, QUICK.held_out, QUICK.seed)
    spoilt = dataclasses.replace(train, layer_cls=train.layer_cls.index_fill(0, held, 9.0))
    for pair in ((train,), (train, train)):
        other = (spoilt,) * len(pair)
        before = train_probes(pair, fit, 1, False, (0.1,), QUICK, 4, CPU)
        after = train_probes(other, fit, 1, False, (0.1,), QUICK, 4, CPU)
        assert torch.equal(before.weight, after.weight)


def test_a_mirrored_table_is_more_data():
    data, mirror = table(40), table(40, seed=5)
    both = Features(
        *(torch.cat([getattr(t, f) for t in (data, mirror)]) for f in ("cls", "mean_patch", "layer_cls")),
        torch.cat([data.labels, mirror.labels]),
        data.names * 2,
    )
    config = LinearConfig(min_steps=30, epochs=1, batch_size=16)
    rows = torch.arange(40)
    two = train_probes((data, mirror), rows, 2, True, (0.1,), config, 4, CPU)
    one = train_probes((both,), torch.arange(80), 2, True, (0.1,), config, 4, CPU)
    torch.testing.assert_close(two.weight, one.weight, atol=1e-5, rtol=1e-4)


def test_a_rate_that_explodes_is_not_chosen():
    config = LinearConfig(min_steps=40, epochs=1, learning_rates=(1e39, 0.1), n_last_blocks=(1,))
    result = evaluate_linear(table(100, noise=0.1), table(40, noise=0.1), config)
    assert result["setting"]["learning_rate"] == 0.1
    assert result["top1"] > 0.95


def test_repeatable_and_independent_of_the_global_seed():
    train, test = table(80, noise=2.0), table(40, noise=2.0, seed=1)
    first = evaluate_linear(train, test, QUICK)
    torch.manual_seed(77)
    assert evaluate_linear(train, test, QUICK) == first


def test_batches_are_whole_passes():
    rows = torch.arange(10, 20)
    parts = batches(rows, 4, 5, seed=0)
    assert [len(part) for part in parts] == [4] * 5
    assert torch.cat(parts)[:10].sort().values.tolist() == rows.tolist()
    assert torch.cat(parts)[10:].sort().values.tolist() == rows.tolist()
    assert [len(part) for part in batches(rows, 64, 3, seed=0)] == [10] * 3


@pytest.mark.parametrize(("images", "steps"), [(100, 1000), (25_600, 2000), (1_281_167, 12_500)])
def test_steps_follow_the_data(images, steps):
    assert LinearConfig().steps(images) == steps


def test_too_few_labels_is_a_data_error():
    with pytest.raises(DataError, match="two classes"):
        evaluate_linear(table(4), table(8), QUICK)
    with pytest.raises(DataError, match="no labels"):
        evaluate_linear(dataclasses.replace(table(8), labels=None), table(8), QUICK)
