"""One rank's calls in their order; whatever would wait for itself is refused at once."""

import pytest

from ldlva_dist.bank.ledger import StepOrder


def order_after(*calls: tuple[str, int]) -> StepOrder:
    order = StepOrder()
    for name, step in calls:
        getattr(order, name)(step)
    return order


TRAINED_5 = ("ask", 5), ("ask", 6), ("collect", 5), ("write", 5)


def test_a_run_may_begin_anywhere_and_asks_one_step_ahead():
    order = order_after(*TRAINED_5)
    for step in range(6, 20):
        order.ask(step + 1)
        order.collect(step)
        order.write(step)
        order.stand_before(step + 1)


@pytest.mark.parametrize(
    ("before", "call", "said"),
    [
        ([], ("collect", 0), "is the next to collect"),
        ([], ("write", 0), "is the next to write"),
        ([("ask", 5)], ("ask", 5), "step 6 is the next to ask for, not 5"),
        ([("ask", 5)], ("ask", 7), "step 6 is the next to ask for, not 7"),
        ([("ask", 5), ("ask", 6)], ("ask", 7), "step 5 must be written before 7 is asked for"),
        ([("ask", 5), ("ask", 6)], ("collect", 6), "step 5 is the next to collect, not 6"),
        ([("ask", 5)], ("write", 5), "step 5 is the next to write"),
        (TRAINED_5, ("collect", 5), "step 6 is the next to collect, not 5"),
        (TRAINED_5, ("write", 5), "step 6 is the next to write, not 5"),
        ([("ask", 5), ("collect", 5)], ("stand_before", 6), "step 5 is the next to write, 6 to ask for"),
        ([*TRAINED_5, ("ask", 7)], ("stand_before", 6), "step 6 is the next to write, 8 to ask for"),
    ],
)
def test_a_call_out_of_order_is_refused(before, call, said):
    order, (name, step) = order_after(*before), call
    with pytest.raises(AssertionError, match=said):
        getattr(order, name)(step)


def test_rows_may_be_kept_before_the_first_question_and_while_the_next_is_on_its_way():
    order_after().stand_before(5)
    order_after(("ask", 5)).stand_before(5)
    order_after(*TRAINED_5).stand_before(6)
