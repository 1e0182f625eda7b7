"""The tables of moves: the world makes every move in them and no other."""

from dataclasses import replace
from itertools import pairwise

import pytest

from spotlib.sandbox import catalogue, course, instance_course
from spotlib.sandbox.account import SpotRequest
from spotlib.sandbox.chance import uniforms
from spotlib.sandbox.forms import Forms
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.numbers import PROFILES
from spotlib.sandbox.states import INSTANCE_MOVES, REQUEST_MOVES, STATE_OF_CODE
from spotlib.sandbox.world import Fate, World

from .conftest import SWITCH

REGION = "us-east-1"
POOL = Pool("t4g.nano", "use1-az1", REGION)
IMAGE = next(n for n, i in catalogue.images(REGION).items() if i["Architecture"] == "arm64")
OTHER_FORMS = Forms(guest_shutdown="stop", notice="marked-for-termination")


def asked(world, **given):
    """One request in this world."""
    launch = {"ImageId": IMAGE, "InstanceType": POOL.instance_type, "UserData": SWITCH}
    kind = catalogue.instance_type(POOL.instance_type)
    given = {"count": 1, "launch": launch, **given}
    [request] = course.request(world, kind, [POOL], **given)
    return request


def moved(request: SpotRequest):
    """The moves of a request and of its instance."""
    codes = ["", *(code for _, code, _ in request.path)]
    states = ["", *(state for _, state in request.instance.path)] if request.instance else []
    return set(pairwise(codes)), set(pairwise(states))


def lived(number):
    """The moves of one life with user actions at drawn moments."""
    draws = uniforms(12, "lives", number)
    fate = Fate(
        evaluate_s=20 * draws[0],
        held_s=None if draws[1] < 0.1 else 40 * max(0.0, draws[1] - 0.5),
        holds="constraint-not-fulfillable" if number % 3 == 0 else "capacity-not-available",
        in_flight_s=20 * draws[2],
        boot_s=20 * draws[3],
        ok_s=10.0,
        shutdown_s=30 * draws[4],
        interrupted_s=60 * draws[5] if draws[6] < 0.3 else None,
        fails="bad-parameters" if draws[7] < 0.03 else None,
    )
    world = World(script=lambda _: fate, forms=OTHER_FORMS if number % 2 else None)
    request = asked(world, valid_until_s=15.0 if draws[8] < 0.2 else None)
    for at, deed in sorted(zip(draws[9:11], ("cancel", "terminate"), strict=True)):
        world.advance(max(0.0, (4000.0 if draws[11] < 0.3 else 130.0) * at - world.now_s))
        if deed == "cancel":
            course.cancel(world, request)
        elif request.instance is not None:
            course.terminate(world, request.instance)
    world.advance(3000.0)
    return moved(request)


def held_by_price(number):
    """The moves of a request whose maximum price is near the market's, in a pool that fills."""
    moving = replace(
        PROFILES["calm"],
        level_shift=1.2,
        volatility_median=0.8,
        spot_tightness=0.4,
        price_holds_s=1800.0,
    )
    world = World(number, market=Market(number, numbers=moving))
    price = float(world.market.price_usd(POOL, world.posix(0.0)))
    request = asked(world, max_price_usd=price * (0.9 + 0.2 * (number % 5) / 4))
    world.advance(number % 7 * 9000.0)
    course.cancel(world, request)
    world.advance(600.0)
    return moved(request)


def below_price(cancel_s):
    """The moves of a request below the market's price, cancelled or expired."""
    world = World()
    request = asked(world, max_price_usd=0.0001, valid_until_s=60.0)
    world.advance(cancel_s)
    course.cancel(world, request)
    world.advance(100.0)
    return moved(request)


def test_every_move_the_world_makes_is_in_the_tables_and_every_row_is_made():
    lives = [lived(number) for number in range(700)]
    lives += [held_by_price(number) for number in range(40)]
    lives += [below_price(20.0), below_price(90.0)]
    failing = World(script=lambda _: Fate(fails="system-error"))
    request = asked(failing)
    failing.advance(5.0)
    lives.append(moved(request))

    requests = set().union(*(moves for moves, _ in lives))
    instances = set().union(*(moves for _, moves in lives))
    assert requests == set(REQUEST_MOVES)
    assert instances == set(INSTANCE_MOVES)


def test_a_move_that_is_not_in_the_tables_is_refused():
    world = World(script=lambda _: Fate())
    request = asked(world)
    with pytest.raises(ValueError, match="no request goes from pending-evaluation to fulfilled"):
        instance_course.set_code(request, "fulfilled", 0.0)


def test_every_code_of_the_tables_has_a_state_and_no_more():
    assert {code for move in REQUEST_MOVES for code in move} - {""} == set(STATE_OF_CODE)
