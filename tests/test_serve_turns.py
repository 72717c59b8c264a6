"""Turns come in the order in which they were asked for, and whoever cannot wait any longer is told so and takes nobody's place."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.tally import Tally
from serve.triton import TritonError
from serve.turns import Turns


def waiting(turns: Turns) -> int:
    return len(turns._waiting)


def until(said) -> None:
    deadline = time.monotonic() + 30
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 8))
def test_first_come_first_served_and_never_more_than_so_many(at_once, count):
    turns, order, inside, most = Turns(at_once), [], [], []
    gates = [threading.Event() for _ in range(at_once)]

    def holder(gate):
        with turns.turn(Tally()):
            inside.append(1)
            gate.wait(30)
            inside.pop()

    def comer(name):
        with turns.turn(Tally()):
            inside.append(1)
            most.append(len(inside))
            order.append(name)
            inside.pop()

    threads = [threading.Thread(target=holder, args=(gate,)) for gate in gates]
    for thread in threads:
        thread.start()
    until(lambda: len(inside) == at_once)
    for name in range(count):
        threads.append(threading.Thread(target=comer, args=(name,)))
        threads[-1].start()
        until(lambda name=name: waiting(turns) == name + 1)
    gates[0].set()  # one turn comes free, and goes from one to the next
    until(lambda: len(order) == count)
    for gate in gates:
        gate.set()
    for thread in threads:
        thread.join(30)
    assert order == list(range(count))
    assert max(most) <= at_once


def test_who_gives_up_is_told_so_and_holds_up_nobody():
    turns = Turns(1)
    with turns.turn(Tally()):
        tally = Tally(within_ms=20)
        with pytest.raises(TritonError, match="too many asked before"), turns.turn(tally):
            pass
        assert tally.stage_ms["waiting"] >= 15
        assert waiting(turns) == 0
    with turns.turn(Tally(within_ms=0)):  # a free turn is taken however late it is: the models say so themselves
        pass


def test_a_turn_comes_back_after_an_error():
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), turns.turn(Tally()):
            raise ZeroDivisionError
    with pytest.raises(ValueError, match="at_once is 0"):
        Turns(0)
