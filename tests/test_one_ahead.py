"""Fetched one ahead: the same items, the same errors, and really meanwhile."""

import threading

import pytest

from nexus.features import ahead
from nexus.features.ahead import one_ahead


@pytest.fixture(params=[1, 2])
def cores(request, monkeypatch) -> int:
    monkeypatch.setattr(ahead.os, "cpu_count", lambda: request.param)
    return request.param


def test_the_same_items_in_order(cores):
    assert list(one_ahead(iter(range(20)))) == list(range(20))
    assert list(one_ahead(iter([None, 0, ""]))) == [None, 0, ""]
    assert list(one_ahead(iter(()))) == []


def test_an_error_comes_where_it_belongs(cores):
    def items():
        yield 1
        yield 2
        raise ValueError("no third")

    found = one_ahead(items())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(found)


def test_the_next_one_is_fetched_while_this_one_is_worked_on(monkeypatch):
    monkeypatch.setattr(ahead.os, "cpu_count", lambda: 2)
    fetched = [threading.Event() for _ in range(4)]

    def items():
        for number, event in enumerate(fetched):
            event.set()
            yield number

    found = one_ahead(items())
    assert next(found) == 0
    assert fetched[1].wait(10)
    assert not fetched[2].is_set()
    found.close()
    assert threading.active_count() == len(threading.enumerate())
    assert not any(thread.name.startswith("nexus-ahead") for thread in threading.enumerate())
