"""A household in text: rooms, receptacles and objects; put, clean, heat, cool and examine, in the manner of ALFWorld.

An agent sees the room that it is in; what lies in a closed receptacle shows when that is opened. Training and test
games share no layout and no goal. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from redistill.methods.language.in_context.agents import Context, Reply
from redistill.methods.language.in_context.cost import Usage
from redistill.methods.language.in_context.scoring import choose

INSTRUCTIONS = "You act in a house, one command at a time, until the task is done."
FIXED = {"kitchen": ("fridge", "microwave", "sink"), "bedroom": ("lamp",), "bathroom": (), "study": ()}
CHOICE = {
    "kitchen": ("countertop", "cabinet", "table", "stove", "pantry"),
    "bedroom": ("bed", "dresser", "nightstand", "wardrobe", "chair"),
    "bathroom": ("basin", "shelf", "hamper", "bathtub", "rack"),
    "study": ("desk", "bookcase", "sofa", "chest", "drawer"),
}
CLOSED = {"fridge", "cabinet", "pantry", "dresser", "wardrobe", "hamper", "chest", "drawer"}
TOOLS = {"lamp", "microwave"}  # nothing lies in them
HOME = {
    "kitchen": ("apple", "tomato", "potato", "egg", "mug", "plate"),
    "bedroom": ("pillow", "watch", "phone", "keys"),
    "bathroom": ("soap", "towel", "sponge", "bottle"),
    "study": ("book", "pen", "vase", "newspaper"),
}
ROOM_OF = {o: room for room, objects in HOME.items() for o in objects}
PLACE_OF = {r: room for room in FIXED for r in (*FIXED[room], *CHOICE[room])}
FOOD = ("apple", "tomato", "potato", "egg")
TOOL_OF = {"clean": "sink", "heat": "microwave", "cool": "fridge", "examine": "lamp"}
STATE_OF = {"clean": "clean", "heat": "hot", "cool": "cold"}
OBJECTS_OF = {
    "put": tuple(ROOM_OF), "clean": (*FOOD, "mug", "plate", "soap", "sponge", "bottle"), "heat": (*FOOD, "mug"),
    "cool": (*FOOD, "bottle"), "examine": ("book", "pen", "vase", "watch", "keys", "newspaper"),
}  # fmt: skip
MAX_STEPS = 12


@dataclass(frozen=True)
class Goal:
    """What is to be done: ``task`` with ``item``, ending in ``target`` (empty for examine)."""

    task: str
    item: str
    target: str = ""

    def __str__(self) -> str:
        if self.task == "examine":
            return f"examine the {self.item} with the lamp"
        return f"{'find' if self.task == 'put' else self.task} the {self.item} and put it in the {self.target}"


def goals() -> list[Goal]:
    """All goals; a target is never in the room where the item is kept."""
    found = [Goal("examine", item) for item in OBJECTS_OF["examine"]]
    for task in ("put", "clean", "heat", "cool"):
        for item in OBJECTS_OF[task]:
            found += [Goal(task, item, t) for r, ts in CHOICE.items() if r != ROOM_OF[item] for t in ts]
    return found


@dataclass
class Household:
    """One game. ``layout``: room -> receptacles; ``items``: object -> receptacle at the beginning."""

    aim: Goal
    layout: dict[str, tuple[str, ...]]
    items: dict[str, str]
    start: str
    success: bool = False
    room: str = ""
    held: str = ""
    opened: set[str] = field(default_factory=set)
    where: dict[str, str] = field(default_factory=dict)
    states: set[tuple[str, str]] = field(default_factory=set)
    taken: int = 0

    @property
    def goal(self) -> str:
        """The goal in words."""
        return str(self.aim)

    def reset(self) -> str:
        """Begin anew; the first observation."""
        self.room, self.held, self.success, self.taken = self.start, "", False, 0
        self.opened, self.where, self.states = set(), dict(self.items), set()
        return self.look()

    def look(self) -> str:
        """What the agent sees."""
        parts = [self._describe(r) for r in self.layout[self.room]]
        done = [STATE_OF[verb] for item, verb in self.states if item == self.held and verb in STATE_OF]
        return f"{self.room}: {', '.join(parts)}. you hold {' '.join([*done, self.held]) if self.held else 'nothing'}."

    def admissible(self) -> list[str]:
        """The commands that do something now."""
        here = self.layout[self.room]
        commands = [f"go to {room}" for room in self.layout if room != self.room]
        commands += [f"open {r}" for r in here if not self._is_open(r)]
        if not self.held:
            return commands + [f"take {o} from {r}" for r in here if self._is_open(r) for o in self._inside(r)]
        commands += [f"put {self.held} in {r}" for r in here if self._is_open(r) and r not in TOOLS]
        return commands + [f"{verb} {self.held} with {tool}" for verb, tool in TOOL_OF.items() if tool in here]

    def step(self, action: str) -> tuple[str, bool]:
        """The next observation, and whether the game is over: won, or after 12 steps."""
        self.taken += 1
        known = action in self.admissible()
        if known:
            self._do(action.split())
        over = self.success or self.taken >= MAX_STEPS
        return (self.look() if known else f"nothing happens. {self.look()}"), over

    def advice(self) -> tuple[list[str], str]:
        """The commands that are right now, and why. They follow from what the agent has seen and where things are kept;
        while it searches, every closed receptacle of the right room is right."""
        aim, tool = self.aim, TOOL_OF.get(self.aim.task, "")
        if self.held and self.held != aim.item:
            return [c for c in self.admissible() if c.startswith("put ")] or [
                "go to kitchen"
            ], f"I don't need {self.held}."
        if not self.held:
            return self._find(aim.item)
        if tool and (aim.item, aim.task) not in self.states:
            return self._at(PLACE_OF[tool], f"{aim.task} {aim.item} with {tool}", f"I must {aim.task} the {aim.item}.")
        if not self._is_open(aim.target) and self.room == PLACE_OF[aim.target]:
            return [f"open {aim.target}"], f"The {aim.target} is closed."
        return self._at(PLACE_OF[aim.target], f"put {aim.item} in {aim.target}", f"Now the {aim.target}.")

    def _find(self, item: str) -> tuple[list[str], str]:
        seen = next((r for r in self.layout[self.room] if self._is_open(r) and item in self._inside(r)), "")
        if seen:
            return [f"take {item} from {seen}"], f"There is the {item}."
        moved = self.where[item] != self.items[item]
        room = PLACE_OF[self.where[item]] if moved else ROOM_OF[item]
        closed = [f"open {r}" for r in self.layout[room] if not self._is_open(r)]
        return (closed if self.room == room else [f"go to {room}"]), f"The {item} is kept in the {room}."

    def _at(self, room: str, command: str, why: str) -> tuple[list[str], str]:
        return ([command] if self.room == room else [f"go to {room}"]), why

    def _do(self, words: list[str]) -> None:
        verb, item, last = words[0], words[1], words[-1]
        if verb == "go":
            self.room = last
        elif verb == "open":
            self.opened.add(item)
        elif verb == "take":
            self.held = item
            del self.where[item]
        elif verb == "put":
            self.held, self.where[item] = "", last
        else:
            self.states = {s for s in self.states if s[0] != item} | {(item, verb)}
        self.success = self._won(verb, item, last)

    def _won(self, verb: str, item: str, last: str) -> bool:
        aim = self.aim
        if aim.task == "examine":
            return (verb, item) == ("examine", aim.item)
        done = aim.task == "put" or (aim.item, aim.task) in self.states
        return done and (verb, item, last) == ("put", aim.item, aim.target)

    def _is_open(self, receptacle: str) -> bool:
        return receptacle not in CLOSED or receptacle in self.opened

    def _inside(self, receptacle: str) -> list[str]:
        return [o for o, r in self.where.items() if r == receptacle]

    def _describe(self, receptacle: str) -> str:
        if not self._is_open(receptacle):
            return f"{receptacle} (closed)"
        inside = self._inside(receptacle)
        return f"{receptacle} ({' '.join(inside)})" if inside else receptacle


class Planner:
    """The teacher: does what is right, slips into a random command with probability ``slip``. Reads the world, not the
    prompt, but is charged for the prompt's tokens (``count``) as a language model would be."""

    def __init__(self, *, slip: float = 0.03, count: Callable[[str], int] = lambda text: len(text.split())) -> None:
        self.slip, self.count = slip, count

    def act(self, context: Context, admissible: Sequence[str], n: int, uniforms: Sequence[float]) -> Reply:
        """``n`` actions, or the plan."""
        world: Household = context.world
        if context.asks == "plan":
            return self._reply(context, [self.plan(world.aim)], "")
        right, why = world.advice()
        slips = [admissible[choose([0.0] * len(admissible), 1.0, [u / self.slip])[0]] if u < self.slip else right[0]
                 for u in uniforms[:n]]  # fmt: skip
        return self._reply(context, slips, why)

    @staticmethod
    def plan(aim: Goal) -> str:
        """The steps to the goal, in words."""
        first = f"take the {aim.item} in the {ROOM_OF[aim.item]}"
        if aim.task == "examine":
            return f"{first}, go to the lamp in the bedroom"
        between = "" if aim.task == "put" else f", {aim.task} it in the kitchen"
        return f"{first}{between}, put it in the {aim.target} in the {PLACE_OF[aim.target]}"

    def _reply(self, context: Context, actions: list[str], why: str) -> Reply:
        written = sum(self.count(a) for a in actions) + self.count(why)
        return Reply(tuple(actions), Usage(len(actions) * self.count(context.prompt()), written, 0, len(actions)), why)


def games(seed: int, train: int, test: int) -> tuple[list[Household], list[Household]]:
    """``train`` and ``test`` games without a common layout or goal."""
    rng = np.random.default_rng([seed, 2512])
    pool = [goals()[i] for i in rng.permutation(len(goals()))]
    layouts = _layouts(rng, train + test)
    cut = round(0.7 * len(pool))
    parts = ((train, pool[:cut], layouts[:train]), (test, pool[cut:], layouts[train:]))
    return tuple([_game(rng, layouts_[i], goals_) for i in range(count)] for count, goals_, layouts_ in parts)


def _layouts(rng: np.random.Generator, count: int) -> list[dict[str, tuple[str, ...]]]:
    """Different layouts: every room has its fixed things and three of five others."""
    sets = {room: list(combinations(some, 3)) for room, some in CHOICE.items()}
    size = int(np.prod([len(s) for s in sets.values()]))
    found = []
    for number in rng.choice(size, count, replace=False):
        picks = np.unravel_index(number, [len(s) for s in sets.values()])
        found.append({room: (*FIXED[room], *s[p]) for (room, s), p in zip(sets.items(), picks)})
    return found


def _game(rng: np.random.Generator, layout: dict[str, tuple[str, ...]], pool: list[Goal]) -> Household:
    """A game in ``layout``: tasks are equally likely (of those that ``pool`` and ``layout`` allow), the item and two
    others of each room lie in their rooms."""
    there = {r for receptacles in layout.values() for r in receptacles}
    possible = [g for g in pool if not g.target or g.target in there]
    assert possible, "no goal fits this layout"
    fitting: list[Goal] = []
    while not fitting:  # a pool may lack a task
        task = rng.choice(list(OBJECTS_OF))
        fitting = [g for g in possible if g.task == task]
    goal = fitting[rng.integers(len(fitting))]
    items = {}
    for room, objects in HOME.items():
        others = [o for o in objects if o != goal.item]
        chosen = [*([goal.item] if goal.item in objects else []), *rng.permutation(others)[:2].tolist()]
        places = [r for r in layout[room] if r not in TOOLS]
        items |= {o: places[rng.integers(len(places))] for o in rng.permutation(chosen).tolist()}
    return Household(goal, layout, items, start=str(rng.choice(list(layout))))
