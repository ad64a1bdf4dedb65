"""Word-problem stories about things counted, made, read, planted and carried.

Each function fills one Draft: 2 to 5 steps. Knows nothing of splits, solution styles or prompts.
"""

from __future__ import annotations

from stateshape.embedded.draft import Draft, Person

SMALL_THINGS = (
    "marbles", "stamps", "cards", "shells", "coins", "beads", "stickers", "buttons", "stones", "badges", "pencils",
    "cookies", "pears", "nuts", "feathers", "tiles",
)  # fmt: skip


def _ledger_event(draft: Draft, who: Person, thing: str, have: int) -> int:
    """One thing that happens to a pile; returns what is there after it."""
    kind = draft.rng.choice(("gain", "gain", "loss", "loss", "double", "half", "packs"))
    if kind == "half" and have % 2 == 0 and have > 3:
        draft.numbers.append(-2)  # a word, not a digit; it still tells this problem's numbers from others'
        draft.say(f"Then {who.he} gives half of them to a friend.", f"Half of {who.his} {thing} get lost.")
        return draft.step(f"{who.He} keeps {{eq}} {thing}.", have, "/", 2)
    if kind == "double" and have <= 60:
        draft.numbers.append(2)
        draft.say(f"A week later {who.he} has twice as many.", f"Soon the number of {thing} doubles.")
        return draft.step(f"It doubles to {{eq}} {thing}.", have, "*", 2)
    if kind == "packs":
        packs, each = draft.number(2, 6), draft.number(3, 12)
        draft.say(
            f"{who.He} buys {packs} packs with {each} {thing} in each.", f"{packs} boxes of {each} {thing} arrive."
        )
        more = draft.step(f"The new ones are {{eq}} {thing}.", packs, "*", each)
        return draft.step(f"{who.He} has {{eq}} {thing}.", have, "+", more)
    if kind == "loss" and have > 4:
        lost = draft.number(2, min(have - 1, 40))
        draft.say(
            f"{who.He} gives {lost} to {who.his} sister.", f"{lost} of them break.", f"Then {who.he} loses {lost}."
        )
        return draft.step(f"{who.He} has {{eq}} {thing}.", have, "-", lost)
    more = draft.number(3, 60)
    draft.say(f"{who.He} finds {more} more.", f"{more} more come by mail.", f"Later {who.he} buys {more} others.")
    return draft.step(f"{who.He} has {{eq}} {thing}.", have, "+", more)


def pile(draft: Draft) -> None:
    """A pile and two to four things that happen to it."""
    who, thing = draft.person(), draft.rng.choice(SMALL_THINGS)
    have = draft.number(6, 60)
    draft.say(f"{who} has {have} {thing}.", f"{who} owns {have} {thing} in a box.", f"There are {have} {thing} on the "
              f"desk of {who}.")  # fmt: skip
    wanted = draft.rng.choice((2, 2, 3, 3, 4))
    while len(draft.equations) < wanted:
        have = _ledger_event(draft, who, thing, have)
    draft.say(f"How many {thing} does {who} have now?", f"How many {thing} are there in the end?",
              f"What number of {thing} does {who.he} end up with?")  # fmt: skip


def compare(draft: Draft) -> None:
    """Three people, each one's number told by another's; then the total."""
    first, second, third, thing = draft.person(), draft.person(), draft.person(), draft.rng.choice(SMALL_THINGS)
    base = 2 * draft.number(3, 30)
    draft.say(f"{first} has {base} {thing}.", f"{first} picked {base} {thing}.")
    counts = [base]
    for who, other in ((second, first), (third, second))[: draft.rng.choice((1, 2, 2))]:
        counts.append(_compared(draft, who, other, thing, counts[-1]))
    together = draft.step(f"Together they have {{eq}} {thing}.", counts[0], "+", counts[1])
    if len(counts) > 2:
        draft.step(f"All three have {{eq}} {thing}.", together, "+", counts[2])
    draft.say(f"How many {thing} do they have together?", f"How many {thing} is that in all?", "What is the total?")


def _compared(draft: Draft, who: Person, other: Person, thing: str, count: int) -> int:
    """`who` has some times, some more or some fewer than `other`, who has `count`."""
    kind = draft.rng.choice(("times", "more", "fewer", "half"))
    if kind == "half" and count % 2 == 0:
        draft.numbers.append(-2)
        draft.say(f"{who} has half as many as {other}.", f"{who} has only half of what {other} has.")
        return draft.step(f"{who} has {{eq}} {thing}.", count, "/", 2)
    if kind == "times" and count <= 60:
        times = draft.number(2, 4)
        word = {2: "twice", 3: "three times", 4: "four times"}[times]
        draft.say(f"{who} has {word} as many as {other}.", f"{who} owns {word} the number of {other}.")
        return draft.step(f"{who} has {{eq}} {thing}.", count, "*", times)
    if kind == "fewer" and count > 5:
        fewer = draft.number(2, count - 2)
        draft.say(f"{who} has {fewer} fewer than {other}.", f"{other} has {fewer} more than {who}.")
        return draft.step(f"{who} has {{eq}} {thing}.", count, "-", fewer)
    more = draft.number(2, 40)
    draft.say(f"{who} has {more} more than {other}.", f"{other} has {more} fewer than {who}.")
    return draft.step(f"{who} has {{eq}} {thing}.", count, "+", more)


def factory(draft: Draft) -> None:
    """A machine's rate over time, waste, boxes."""
    good = draft.pick("bolts", "bricks", "bottles", "loaves", "spoons", "bulbs")
    rate, time = draft.number(4, 25), draft.number(3, 12)
    unit = draft.pick("hour", "minute", "day")
    draft.say(f"A machine makes {rate} {good} every {unit}. It runs for {time} {unit}s.",
              f"In a factory, {rate} {good} are made per {unit} for {time} {unit}s.")  # fmt: skip
    made = draft.step(f"The machine makes {{eq}} {good}.", rate, "*", time)
    if draft.chance(0.5):
        second = draft.number(2, 9)
        draft.say(f"A second machine makes {second} {good} per {unit} in the same time.",
                  f"An older machine adds {second} {good} each {unit}.")  # fmt: skip
        more = draft.step(f"The other one makes {{eq}} {good}.", second, "*", time)
        made = draft.step(f"In all there are {{eq}} {good}.", made, "+", more)
    boxes = draft.rng.randint(2, 9)
    broken = made % boxes + boxes * draft.rng.randint(0, 1)
    if 0 < broken < made:
        draft.numbers.extend((broken, boxes))
        _boxed(draft, good, made, broken, boxes)
        return
    kept = draft.number(2, made - 1)
    draft.say(f"{kept} of them are kept for tests. How many {good} can be sold?",
              f"The owner keeps {kept}. How many {good} go out?")  # fmt: skip
    draft.step(f"That leaves {{eq}} {good}.", made, "-", kept)


def _boxed(draft: Draft, good: str, made: int, broken: int, boxes: int) -> None:
    draft.say(f"{broken} of them are broken.", f"{broken} are thrown away.")
    fine = draft.step(f"That leaves {{eq}} {good}.", made, "-", broken)
    draft.say(f"The rest goes into {boxes} equal boxes. How many {good} are in each box?",
              f"If {boxes} shops share the rest equally, how many does each shop get?")  # fmt: skip
    draft.step(f"Each one holds {{eq}} {good}.", fine, "/", boxes)


def travel(draft: Draft) -> None:
    """Two legs at two speeds, and perhaps what is left of the way."""
    who = draft.person()
    speed_a, time_a, speed_b, time_b = (
        draft.number(3, 60),
        draft.number(2, 5),
        draft.number(3, 60),
        draft.number(2, 5),
    )
    draft.say(
        f"{who} rides at {speed_a} miles per hour for {time_a} hours, and then at {speed_b} miles per hour for "
        f"{time_b} hours.",
        f"{who} travels {time_a} hours at {speed_a} miles an hour. Then {who.he} goes {time_b} hours at {speed_b} "
        f"miles an hour.",
    )
    leg_a = draft.step("The first part is {eq} miles.", speed_a, "*", time_a)
    leg_b = draft.step("The second part is {eq} miles.", speed_b, "*", time_b)
    done = draft.step(f"{who} goes {{eq}} miles.", leg_a, "+", leg_b)
    if draft.chance(0.4):
        whole = done + draft.number(5, 90)
        draft.say(f"The whole way is {whole} miles. How many miles are left?",
                  f"How far is it still, if the way is {whole} miles long?")  # fmt: skip
        draft.step("The rest is {eq} miles.", whole, "-", done)
    else:
        draft.say("How many miles is that in all?", f"How far does {who} go?")


def crowd(draft: Draft) -> None:
    """A group, one fraction of it, a fraction of the rest or some who leave."""
    place, part, other = draft.rng.choice((
        ("school", "walk", "come by bus"), ("club", "play chess", "paint"), ("camp", "swim", "sail"),
        ("choir", "sing high", "sing low"), ("village", "own a dog", "own a cat"),
    ))  # fmt: skip
    fraction, word = draft.rng.choice(((2, "Half"), (3, "A third"), (4, "A quarter"), (5, "A fifth")))
    draft.numbers.append(-fraction)
    total = draft.multiple(fraction, 6, 40)
    draft.say(f"A {place} has {total} people.", f"There are {total} people in a {place}.")
    draft.say(f"{word} of them {part}.", f"{word} of the people {part}.")
    some = draft.step(f"{{eq}} people {part}.", total, "/", fraction)
    rest = draft.step("The others are {eq} people.", total, "-", some)
    if rest % 2 == 0 and draft.chance(0.5):
        draft.say(f"Half of the others {other}.", f"Of the rest, half {other}.")
        rest = draft.step(f"{{eq}} people {other}.", rest, "/", 2)
        draft.say(f"How many people {other}?", f"How many of them {other}?")
        return
    gone = draft.number(2, max(3, rest // 2))
    draft.say(f"Of the rest, {gone} are ill and all others {other}.", f"All others {other}, except {gone} who rest.")
    draft.step(f"{{eq}} people {other}.", rest, "-", gone)
    draft.say(f"How many people {other}?", f"How many of them {other}?")


def reading(draft: Draft) -> None:
    """Pages a day, a second pace, pages left, days needed."""
    who = draft.person()
    pace, days = draft.number(5, 30), draft.number(2, 7)
    pace_b, days_b = draft.number(2, 12), draft.number(2, 9)
    draft.say(f"{who} reads {pace} pages a day for {days} days.", f"For {days} days {who} reads {pace} pages each day.")
    read = draft.step(f"{who} reads {{eq}} pages.", pace, "*", days)
    if draft.chance(0.3):
        extra = draft.number(3, 30)
        draft.say(f"On Sunday {who.he} reads {extra} more.", f"Then {who.he} adds {extra} pages at night.")
        read = draft.step(f"{who.He} has read {{eq}} pages.", read, "+", extra)
    whole = read + pace_b * days_b
    draft.say(f"The book has {whole} pages.", f"It is a book of {whole} pages.")
    left = draft.step("There are {eq} pages left.", whole, "-", read)
    if draft.chance(0.6):
        draft.say(f"At {pace_b} pages a day, how many more days does {who.he} need?",
                  f"How many days will the rest take at {pace_b} pages a day?")  # fmt: skip
        draft.step(f"{who.He} needs {{eq}} more days.", left, "/", pace_b)
    else:
        draft.say("How many pages are left?", f"How many pages does {who.he} still have to read?")


def garden(draft: Draft) -> None:
    """Rows of plants, two beds, some that die."""
    who = draft.person()
    plant_a, plant_b = draft.rng.sample(("tulips", "carrots", "beans", "roses", "onions", "peas", "ferns"), 2)
    rows_a, in_row_a, rows_b, in_row_b = (
        draft.number(2, 9),
        draft.number(4, 15),
        draft.number(2, 9),
        draft.number(4, 15),
    )
    draft.say(
        f"{who} plants {rows_a} rows of {in_row_a} {plant_a} and {rows_b} rows of {in_row_b} {plant_b}.",
        f"In the garden of {who} there are {rows_a} rows with {in_row_a} {plant_a} each and {rows_b} rows with "
        f"{in_row_b} {plant_b} each.",
    )
    bed_a = draft.step(f"There are {{eq}} {plant_a}.", rows_a, "*", in_row_a)
    bed_b = draft.step(f"There are {{eq}} {plant_b}.", rows_b, "*", in_row_b)
    if draft.chance(0.35) and bed_a != bed_b:
        more, less, high, low = (plant_a, plant_b, bed_a, bed_b) if bed_a > bed_b else (plant_b, plant_a, bed_b, bed_a)
        draft.say(f"How many more {more} than {less} are there?", f"By how many do the {more} beat the {less}?")
        draft.step(f"There are {{eq}} more {more}.", high, "-", low)
        return
    total = draft.step("There are {eq} plants.", bed_a, "+", bed_b)
    if draft.chance(0.5):
        dead = draft.number(2, 20)
        draft.say(f"{dead} of the plants die.", f"A storm kills {dead} plants.", f"Snails eat {dead} plants.")
        draft.say("How many plants are left?", "How many plants live on?")
        draft.step("That leaves {eq} plants.", total, "-", min(dead, total))
    else:
        draft.say("How many plants are there?", "How many plants is that in all?")


def bus(draft: Draft) -> None:
    """A bus with stops where people get on and off."""
    vehicle = draft.pick("bus", "train", "ferry", "tram")
    on_board = draft.number(8, 60)
    draft.say(f"A {vehicle} starts with {on_board} people.", f"There are {on_board} people on a {vehicle}.")
    for stop in ("first", "second", "third")[: draft.rng.choice((1, 1, 2))]:
        off, on = draft.number(2, on_board - 2), draft.number(2, 30)
        draft.say(f"At the {stop} stop {off} get off and {on} get on.", f"{off} people leave at the {stop} stop, and "
                  f"{on} come in.")  # fmt: skip
        on_board = draft.step("That leaves {eq} people.", on_board, "-", off)
        on_board = draft.step("Then there are {eq} people.", on_board, "+", on)
        if on_board < 6:
            break
    draft.say(f"How many people are on the {vehicle} now?", f"How many people does the {vehicle} carry then?")


def baking(draft: Draft) -> None:
    """Dozens baked, some eaten, plates or boxes filled."""
    who = draft.person()
    good = draft.pick("muffins", "rolls", "tarts", "buns", "pies", "waffles")
    dozens = draft.number(2, 9)
    draft.say(f"{who} bakes {dozens} dozen {good}.", f"{who} makes {dozens} dozen {good} for a party.")
    made = draft.step(f"{who} makes {{eq}} {good}.", dozens, "*", 12)
    plates = draft.rng.randint(2, 8)
    eaten = made % plates + plates * draft.rng.randint(1, 2)
    draft.numbers.extend((eaten, plates))
    draft.say(f"{eaten} are eaten at once.", f"The children eat {eaten} of them.", f"{who.His} dog steals {eaten}.")
    left = draft.step(f"There are {{eq}} {good} left.", made, "-", eaten)
    draft.say(f"The rest goes on {plates} plates evenly.", f"{who.He} puts the others on {plates} plates, all alike.")
    each = draft.step(f"Each plate has {{eq}} {good}.", left, "/", plates)
    if draft.chance(0.5):
        sold, price = draft.number(1, plates), draft.number(2, 4)
        draft.say(f"{who.He} sells {sold} plates at ${price} a piece. How many dollars does {who.he} get?",
                  f"{sold} plates are sold at ${price} for each piece. How much money is that?")  # fmt: skip
        pieces = draft.step(f"{who.He} sells {{eq}} {good}.", sold, "*", each)
        draft.step(f"{who.He} gets {{eq}} dollars.", pieces, "*", price)
    else:
        draft.say(f"How many {good} are on each plate?", f"How many {good} does one plate hold?")


STORIES = (pile, pile, compare, compare, factory, travel, crowd, reading, garden, bus, baking)
