"""Word-problem stories about money: shops, wages, savings, tickets, shares.

Each function fills one Draft: 2 to 5 steps. Knows nothing of splits, solution styles or prompts.
"""

from __future__ import annotations

from stateshape.embedded.draft import Draft

GOODS = (
    "pens", "books", "cups", "caps", "lamps", "toys", "shirts", "plates", "scarves", "balls", "candles", "chairs",
    "brushes", "bags", "kites", "clocks",
)  # fmt: skip


def shopping(draft: Draft) -> None:
    """num_a at price_a, num_b at price_b, perhaps a coupon, perhaps change from a note."""
    who = draft.person()
    thing_a, thing_b = draft.rng.sample(GOODS, 2)
    num_a, price_a, num_b, price_b = (draft.number(2, 9), draft.number(3, 15), draft.number(2, 9), draft.number(3, 15))
    draft.say(
        f"{who} buys {num_a} {thing_a} for ${price_a} each and {num_b} {thing_b} for ${price_b} each.",
        f"At the market, {who} picks {num_a} {thing_a} at ${price_a} each and {num_b} {thing_b} at ${price_b} each.",
        f"{thing_a.capitalize()} cost ${price_a} and {thing_b} cost ${price_b}. "
        f"{who} takes {num_a} {thing_a} and {num_b} {thing_b}.",
    )
    cost_a = draft.step(f"The {thing_a} cost {{eq}} dollars.", num_a, "*", price_a)
    cost_b = draft.step(f"The {thing_b} cost {{eq}} dollars.", num_b, "*", price_b)
    total = draft.step("Together they cost {eq} dollars.", cost_a, "+", cost_b)
    if draft.chance(0.3):
        off = draft.number(2, 9)
        draft.say(f"{who.He} has a coupon for ${off} off.", f"The shop takes ${off} off the bill.")
        total = draft.step("After the discount it is {eq} dollars.", total, "-", off)
    if draft.chance(0.4):
        paid = draft.number(total // 10 + 1, total // 10 + 6) * 10
        draft.say(f"{who.He} pays with ${paid}. How much change does {who.he} get?",
                  f"If {who.he} hands over ${paid}, how many dollars come back?")  # fmt: skip
        draft.step("The change is {eq} dollars.", paid, "-", total)
    else:
        draft.say(f"How much does {who} pay in all?", "How many dollars is the bill?", f"What does {who} spend?")


def wages(draft: Draft) -> None:
    """Hours a day times days times pay, perhaps a bonus, perhaps spending."""
    who = draft.person()
    hours, days, pay = draft.number(2, 8), draft.number(2, 6), draft.number(4, 15)
    job = draft.pick("at a bakery", "in a shop", "on a farm", "at a garage", "in a library", "as a painter")
    draft.say(
        f"{who} works {job} for {hours} hours a day and earns ${pay} an hour. {who.He} works {days} days.",
        f"For {days} days {who} works {job}, {hours} hours each day, at ${pay} per hour.",
        f"{who} is paid ${pay} per hour {job}. This week {who.he} worked {hours} hours on each of {days} days.",
    )
    worked = draft.step(f"{who} works {{eq}} hours.", hours, "*", days)
    money = draft.step(f"{who.He} earns {{eq}} dollars.", worked, "*", pay)
    if draft.chance(0.4):
        bonus = draft.number(5, 40)
        draft.say(f"{who.He} also gets a bonus of ${bonus}.", f"The boss adds ${bonus} for good work.")
        money = draft.step("With the bonus it is {eq} dollars.", money, "+", bonus)
    if draft.chance(0.5):
        spent = draft.number(3, min(60, money - 1))
        draft.say(f"{who.He} spends ${spent} on food. How much money is left?",
                  f"How many dollars remain after {who.he} pays ${spent} for rent?")  # fmt: skip
        draft.step(f"{who.He} has {{eq}} dollars left.", money, "-", spent)
    else:
        draft.say(f"How much money does {who} make?", f"How many dollars does {who.he} earn?")


def saving(draft: Draft) -> None:
    """A price, what is there already, a weekly amount: how many weeks?"""
    who = draft.person()
    weekly, weeks = draft.number(3, 15), draft.number(3, 12)
    have = draft.number(5, 60)
    price = have + weekly * weeks
    gift = draft.pick("bike", "guitar", "camera", "tent", "desk", "radio")
    draft.say(
        f"{who} wants a {gift} that costs ${price}. {who.He} has ${have} already and saves ${weekly} a week.",
        f"A {gift} costs ${price}. {who} owns ${have} and can put away ${weekly} every week.",
    )
    if draft.chance(0.4):
        aunt = weekly * draft.number(1, weeks - 1)
        draft.say(f"An aunt gives {who.him} ${aunt}.", f"For a birthday {who.he} is given ${aunt}.")
        have = draft.step(f"{who} has {{eq}} dollars.", have, "+", aunt)
    missing = draft.step(f"{who.He} still needs {{eq}} dollars.", price, "-", have)
    draft.say(f"In how many weeks can {who} buy the {gift}?", "How many weeks does it take to have enough?")
    draft.step("That takes {eq} weeks.", missing, "/", weekly)


def tickets(draft: Draft) -> None:
    """Adults and children at two prices, one price given as a fraction or a difference of the other."""
    place = draft.pick("zoo", "museum", "circus", "cinema", "fair", "pool")
    adult = 2 * draft.number(3, 10)
    num_adults, num_children = draft.number(2, 9), draft.number(2, 12)
    if draft.chance(0.5):
        draft.say(f"At the {place} an adult ticket costs ${adult} and a child pays half.",
                  f"Entry to the {place} is ${adult}, and children pay half of that.")  # fmt: skip
        child = draft.step("A child pays {eq} dollars.", adult, "/", 2)
    else:
        less = draft.number(1, adult - 2)
        draft.say(f"At the {place} an adult ticket costs ${adult} and a child ticket costs ${less} less.",
                  f"Entry to the {place} is ${adult}, but ${less} less for children.")  # fmt: skip
        child = draft.step("A child pays {eq} dollars.", adult, "-", less)
    draft.say(f"A group of {num_adults} adults and {num_children} children goes in.",
              f"One morning {num_adults} adults and {num_children} children come.")  # fmt: skip
    cost_a = draft.step("The adults pay {eq} dollars.", num_adults, "*", adult)
    cost_c = draft.step("The children pay {eq} dollars.", num_children, "*", child)
    draft.say("How much do they pay in all?", "What do the tickets cost together?", "How many dollars is that?")
    draft.step("In all it is {eq} dollars.", cost_a, "+", cost_c)


def sharing(draft: Draft) -> None:
    """Several friends earn money together and split it evenly."""
    who = draft.person()
    num_friends = draft.number(2, 6)
    heads = num_friends + 1
    share_low = draft.number(4, 20)
    price, sold = draft.number(2, 5) * heads, draft.number(3, 9)
    extra = heads * share_low
    draft.say(
        f"{who} and {num_friends} friends sell {sold} cakes for ${price} each, and a neighbor gives them ${extra}.",
        f"Together with {num_friends} friends, {who} sells {sold} pots at ${price} each and finds ${extra} in a box.",
    )
    draft.say("They split the money evenly. How much does each one get?",
              "If all of them share equally, how many dollars does each get?")  # fmt: skip
    earned = draft.step("They earn {eq} dollars.", sold, "*", price)
    total = draft.step("In all they have {eq} dollars.", earned, "+", extra)
    people = draft.step("There are {eq} people.", num_friends, "+", 1)
    draft.step("Each one gets {eq} dollars.", total, "/", people)


def market_stall(draft: Draft) -> None:
    """Eggs or fruit collected for days, some eaten, the rest sold."""
    who = draft.person()
    animal, good = draft.rng.choice((("hens", "eggs"), ("trees", "apples"), ("vines", "melons"), ("bushes", "plums")))
    num_sources, each, days = draft.number(3, 12), draft.number(2, 6), draft.number(2, 7)
    draft.say(
        f"{who} has {num_sources} {animal}, and each gives {each} {good} a day.",
        f"Every day each of the {num_sources} {animal} of {who} gives {each} {good}.",
    )
    daily = draft.step(f"There are {{eq}} {good} a day.", num_sources, "*", each)
    stock = daily
    if draft.chance(0.5):
        draft.say(f"{who.He} gathers them for {days} days.", f"After {days} days {who.he} loads them all on a cart.")
        stock = draft.step(f"In all there are {{eq}} {good}.", daily, "*", days)
    if draft.chance(0.6):
        eaten = draft.number(1, min(20, stock - 2))
        draft.say(f"The family eats {eaten} of them.", f"{who.He} keeps {eaten} for the kitchen.")
        stock = draft.step(f"That leaves {{eq}} {good}.", stock, "-", eaten)
    price = draft.number(2, 6)
    draft.say(f"The rest is sold for ${price} each. How much money does {who} get?",
              f"{who.He} sells the rest at ${price} apiece. How many dollars is that?")  # fmt: skip
    draft.step(f"{who.He} gets {{eq}} dollars.", stock, "*", price)


STORIES = (shopping, wages, saving, tickets, sharing, market_stall)
