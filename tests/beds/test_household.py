"""The household: games are disjoint and repeatable, the planner solves them, its moves are right."""

from __future__ import annotations

from redistill.beds.household import CLOSED, HOME, Household, Planner, games
from redistill.methods.language.in_context.agents import Context


def play(world: Household, policy: Planner, uniform: float = 0.99) -> int:
    world.reset()
    for step in range(1, 13):
        action = policy.act(Context(world.goal, world=world), world.admissible(), 1, [uniform]).actions[0]
        if world.step(action)[1]:
            return step
    raise AssertionError("the game did not end")


def test_games_share_no_goal_and_no_layout_and_follow_from_the_seed():
    train, test = games(7, 60, 20)
    assert not {w.goal for w in train} & {w.goal for w in test}
    layouts = [tuple(sorted((room, r) for room, r in w.layout.items())) for w in (*train, *test)]
    assert len(set(layouts)) == 80
    again = games(7, 60, 20)
    assert [w.reset() for w in train + test] == [w.reset() for w in again[0] + again[1]]
    assert [w.goal for w in test] != [w.goal for w in games(8, 60, 20)[1]]


def test_a_pool_that_lacks_a_task_still_gives_games():
    """The test pool of this seed has no goal of one task that fits its layouts."""
    train, test = games(202, 60, 20)
    assert (len(train), len(test)) == (60, 20)


def test_the_planner_wins_every_game_with_admissible_moves():
    train, test = games(1, 60, 20)
    for world in (*train, *test):
        assert play(world, Planner(slip=0.0)) <= 12 and world.success
        world.reset()
        over = False
        while not over:
            right, _ = world.advice()
            assert right and set(right) <= set(world.admissible())
            _, over = world.step(right[-1])
        assert world.success


def test_every_admissible_command_changes_what_is_seen():
    for world in games(2, 5, 1)[0]:
        for command in (world.reset(), *world.admissible())[1:]:
            before = world.reset()
            after, _ = world.step(command)
            assert after != before and not after.startswith("nothing")


def test_closed_receptacles_hide_things_and_objects_have_homes():
    world = games(3, 1, 1)[0][0]
    for item, receptacle in world.items.items():
        room = next(room for room, objects in HOME.items() if item in objects)
        assert receptacle in world.layout[room]
        world.reset()
        world.step(f"go to {room}")
        assert (f"take {item} from {receptacle}" in world.admissible()) == (receptacle not in CLOSED)


def test_unknown_commands_do_nothing_and_the_game_ends_after_twelve():
    world = games(4, 1, 1)[0][0]
    first = world.reset()
    outcomes = [world.step("fly to the moon") for _ in range(12)]
    assert outcomes[0] == (f"nothing happens. {first}", False) and outcomes[-1][1] and not world.success


def test_slips_are_random_commands_of_the_given_share():
    world = games(5, 1, 1)[0][0]
    world.reset()
    commands, right = world.admissible(), world.advice()[0][0]
    uniforms = [(i + 0.5) / 1000 for i in range(1000)]
    actions = Planner(slip=0.1).act(Context(world.goal, world=world), commands, 1000, uniforms).actions
    assert all(a == right for a in actions[100:]) and set(actions[:100]) == set(commands)
