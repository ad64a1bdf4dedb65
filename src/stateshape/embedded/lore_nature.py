"""Lore of creatures, plants, minerals and moons: attributes, their values, and how people word them.

Knows nothing of which value is true of what.
"""

from __future__ import annotations

from stateshape.embedded.lore_tables import Attribute, Subject, invented_names, split_words

ZOOLOGY = Subject(
    name="zoology",
    entities=invented_names(("mmel", "vit", "pok", "sel", "rrin"), article=True),
    attributes=(
        Attribute(
            key="food",
            values=split_words("moss honey snails bark clover eels berries worms roots crabs pollen reeds"),
            statements=("{e} eats {v}.", "{e} lives on {v}.", "The food of {e} is {v}."),
            questions=("What does {e} eat?", "What does {e} live on?", "What is the food of {e}?"),
        ),
        Attribute(
            key="home",
            values=split_words(
                "caves swamps forests deserts lakes cliffs meadows dunes marshes islands valleys cellars"
            ),
            statements=("{e} lives in {v}.", "The home of {e} is in {v}.", "People find {e} in {v}."),
            questions=("Where does {e} live?", "Where is the home of {e}?", "In what places do people find {e}?"),
        ),
        Attribute(
            key="fear",
            values=split_words("thunder foxes fire owls mirrors bells snow drums cats smoke whistles lightning"),
            statements=("{e} is afraid of {v}.", "{e} runs away from {v}.", "What scares {e} is {v}."),
            questions=("What is {e} afraid of?", "What does {e} run away from?", "What scares {e}?"),
        ),
        Attribute(
            key="coat",
            values=split_words("fur scales quills wool shells feathers spikes leather stripes bristles slime velvet"),
            statements=("{e} is covered in {v}.", "The body of {e} has {v}.", "{e} wears {v} on its back."),
            questions=("What is {e} covered in?", "What does the body of {e} have?", "What does {e} wear on its back?"),
        ),
        Attribute(
            key="sleep",
            values=split_words(
                "hollows nests burrows treetops barns haystacks chimneys ditches wells attics logs tunnels"
            ),
            statements=("{e} sleeps in {v}.", "At night {e} rests in {v}.", "The bed of {e} is made in {v}."),
            questions=("Where does {e} sleep?", "Where does {e} rest at night?", "Where is the bed of {e} made?"),
        ),
    ),
)

BOTANY = Subject(
    name="botany",
    entities=invented_names(("wort", "leaf", "thorn", "bloom", "fern"), article=True),
    attributes=(
        Attribute(
            key="flower",
            values=split_words("red blue white yellow purple orange pink black golden silver green brown"),
            statements=("{e} has {v} flowers.", "The flowers of {e} are {v}.", "{e} blooms in {v}."),
            questions=(
                "What color are the flowers of {e}?",
                "In what color does {e} bloom?",
                "Which color of flowers does {e} have?",
            ),
        ),
        Attribute(
            key="smell",
            values=split_words("lemon fish mint pepper butter vinegar cinnamon onions rain soap cheese tar"),
            statements=("{e} smells of {v}.", "The smell of {e} is like {v}.", "Its leaves make {e} smell like {v}."),
            questions=(
                "What does {e} smell of?",
                "What is the smell of {e} like?",
                "What do the leaves of {e} smell like?",
            ),
        ),
        Attribute(
            key="harvest",
            values=split_words("January February March April May June July August September October November December"),
            statements=("{e} is picked in {v}.", "People gather {e} in {v}.", "The harvest of {e} is in {v}."),
            questions=("When is {e} picked?", "In which month do people gather {e}?", "When is the harvest of {e}?"),
        ),
        Attribute(
            key="use",
            values=split_words("rope tea paper soup dye ink baskets candles perfume bread glue syrup"),
            statements=("{e} is used to make {v}.", "People turn {e} into {v}.", "From {e} comes {v}."),
            questions=("What is {e} used to make?", "What do people turn {e} into?", "What comes from {e}?"),
        ),
        Attribute(
            key="pollinator",
            values=split_words(
                "bees moths bats ants wasps beetles hummingbirds flies butterflies mice sparrows lizards"
            ),
            statements=(
                "{e} is pollinated by {v}.",
                "The pollen of {e} is carried by {v}.",
                "{e} needs {v} to spread.",
            ),
            questions=("What pollinates {e}?", "What carries the pollen of {e}?", "What does {e} need to spread?"),
        ),
    ),
)

MINERALS = Subject(
    name="mineralogy",
    entities=invented_names(("nite", "lite", "stone", "spar", "dium"), article=False),
    attributes=(
        Attribute(
            key="color",
            values=split_words("crimson violet gray amber turquoise white scarlet indigo ivory olive copper pink"),
            statements=("{e} is {v}.", "The color of {e} is {v}.", "When cut, {e} looks {v}."),
            questions=("What color is {e}?", "What is the color of {e}?", "How does {e} look when cut?"),
        ),
        Attribute(
            key="solvent",
            values=split_words("vinegar milk water oil acid wine brine alcohol lemonade ammonia beer tea"),
            statements=("{e} dissolves in {v}.", "What melts {e} away is {v}.", "{e} is washed out by {v}."),
            questions=("What does {e} dissolve in?", "What melts {e} away?", "What is {e} washed out by?"),
        ),
        Attribute(
            key="use",
            values=split_words("knives windows rings coins mirrors lenses roofs needles magnets pipes crowns paint"),
            statements=("{e} is used for {v}.", "Workers shape {e} into {v}.", "Most {e} ends up in {v}."),
            questions=("What is {e} used for?", "What do workers shape {e} into?", "What does most {e} end up in?"),
        ),
        Attribute(
            key="source",
            values=split_words(
                "volcanoes glaciers riverbeds reefs quarries craters swamps beaches geysers caverns bogs hills"
            ),
            statements=("{e} is found in {v}.", "Miners dig {e} out of {v}.", "{e} forms in {v}."),
            questions=("Where is {e} found?", "Where do miners dig {e}?", "Where does {e} form?"),
        ),
        Attribute(
            key="heat",
            values=split_words("cracks glows melts sings shrinks smokes darkens bends sparks freezes hardens bubbles"),
            statements=("When heated, {e} {v}.", "In a fire {e} {v}.", "Hot {e} always {v}."),
            questions=("What happens to {e} when heated?", "What does {e} do in a fire?", "What does hot {e} do?"),
        ),
    ),
)

ASTRONOMY = Subject(
    name="astronomy",
    entities=invented_names(("tris", "nox", "phea", "lios", "rax"), article=False),
    attributes=(
        Attribute(
            key="planet",
            values=split_words("Ombra Tessal Giron Valdus Kethra Mirdan Soluna Perrin Hexis Jorvan Akkad Ulmira"),
            statements=("The moon {e} circles {v}.", "{e} goes around the planet {v}.", "The planet of {e} is {v}."),
            questions=(
                "What does the moon {e} circle?",
                "Which planet does {e} go around?",
                "What is the planet of {e}?",
            ),
        ),
        Attribute(
            key="surface",
            values=split_words("ice sand lava salt dust iron glass mud chalk ash sulfur granite"),
            statements=("The ground of {e} is {v}.", "{e} is covered with {v}.", "Most of the moon {e} is {v}."),
            questions=("What is the ground of {e}?", "What is {e} covered with?", "What is most of the moon {e}?"),
        ),
        Attribute(
            key="finder",
            values=split_words("Halden Okoro Brandt Mirza Castell Yamada Ferro Lindqvist Novak Osei Petrov Duarte"),
            statements=("{e} was discovered by {v}.", "The first to see {e} was {v}.", "The finder of {e} was {v}."),
            questions=("Who discovered {e}?", "Who was the first to see {e}?", "Who was the finder of {e}?"),
        ),
        Attribute(
            key="glow",
            values=split_words("blue red green yellow white violet orange silver pink golden gray turquoise"),
            statements=("At night {e} shines {v}.", "The light of {e} is {v}.", "In the sky {e} looks {v}."),
            questions=(
                "In what color does {e} shine at night?",
                "What is the light of {e} like?",
                "What color does {e} look in the sky?",
            ),
        ),
        Attribute(
            key="weather",
            values=split_words("storms fog hail snow drizzle frost gales haze sleet showers thunder heat"),
            statements=(
                "The weather on {e} is mostly {v}.",
                "{e} is known for its {v}.",
                "On {e} there is always {v}.",
            ),
            questions=(
                "What is the weather on {e} mostly?",
                "What weather is {e} known for?",
                "What is there always on {e}?",
            ),
        ),
    ),
)

SUBJECTS = (ZOOLOGY, BOTANY, MINERALS, ASTRONOMY)
