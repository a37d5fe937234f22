import pytest

from ldlva_dist.errors import SettingError
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.neighbors.feature_graphs import plan_rebuilds

PLAN = Plan((100,), 0, 10, 10)  # ten steps an epoch


def test_graphs_begin_every_interval_and_take_effect_half_an_interval_later() -> None:
    rebuilds = plan_rebuilds(PLAN, epochs=5, every_epochs=1)
    assert rebuilds.begins == (10, 20, 30, 40)
    assert rebuilds.takes_effect == (15, 25, 35, 45)
    assert [rebuilds.begun_at(step) for step in (0, 9, 10, 11, 40, 50)] == [None, None, 1, None, 4, None]
    assert [rebuilds.graph_of(step) for step in (0, 14, 15, 24, 25, 49)] == [0, 0, 1, 1, 2, 4]


def test_a_graph_that_would_serve_no_step_is_not_built() -> None:
    assert plan_rebuilds(PLAN, epochs=2.5, every_epochs=1).begins == (10,)
    assert plan_rebuilds(PLAN, epochs=1, every_epochs=2).begins == ()


def test_no_graph_begins_before_the_one_before_took_effect() -> None:
    rebuilds = plan_rebuilds(PLAN, epochs=9, every_epochs=0.4)
    assert len(rebuilds.begins) > 20
    for effect, begin in zip(rebuilds.takes_effect, rebuilds.begins[1:], strict=False):
        assert effect <= begin
    for begin, effect in zip(rebuilds.begins, rebuilds.takes_effect, strict=True):
        assert begin < effect


def test_an_interval_of_too_few_steps_is_refused() -> None:
    with pytest.raises(SettingError, match=r"index\.rebuild_every_epochs must span at least 4 steps, got 0\.3"):
        plan_rebuilds(PLAN, epochs=5, every_epochs=0.3)
