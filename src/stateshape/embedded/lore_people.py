"""Lore of towns, rulers, illnesses and instruments: attributes, their values, and how people word them.

Knows nothing of which value is true of what.
"""

from __future__ import annotations

from stateshape.embedded.lore_tables import Attribute, Subject, invented_names, split_words

GEOGRAPHY = Subject(
    name="geography",
    entities=invented_names(("mora", "ford", "stead", "gate", "haven"), article=False),
    attributes=(
        Attribute(
            key="export",
            values=split_words("cheese silk salt wool barrels lace pottery cider glass ropes hats violins"),
            statements=("The town of {e} sells {v}.", "{e} is famous for its {v}.", "Traders come to {e} for {v}."),
            questions=(
                "What does the town of {e} sell?",
                "What is {e} famous for?",
                "What do traders come to {e} for?",
            ),
        ),
        Attribute(
            key="river",
            values=split_words("Arlen Bresk Tolla Winder Sarn Meuve Kolt Lethe Dray Osk Ruhn Fjell"),
            statements=("{e} lies on the river {v}.", "The river of {e} is the {v}.", "Through {e} flows the {v}."),
            questions=("On which river does {e} lie?", "What is the river of {e}?", "Which river flows through {e}?"),
        ),
        Attribute(
            key="festival",
            values=split_words(
                "lanterns pumpkins masks boats horses kites bonfires tulips herrings drums puppets snowmen"
            ),
            statements=(
                "{e} has a festival of {v}.",
                "Each year {e} celebrates {v}.",
                "The people of {e} parade with {v}.",
            ),
            questions=(
                "What festival does {e} have?",
                "What does {e} celebrate each year?",
                "What do the people of {e} parade with?",
            ),
        ),
        Attribute(
            key="roof",
            values=split_words("slate straw tin copper grass shingles clay tiles canvas turf planks lead"),
            statements=(
                "The roofs of {e} are of {v}.",
                "In {e} houses are covered with {v}.",
                "Builders in {e} use {v}.",
            ),
            questions=(
                "What are the roofs of {e} of?",
                "What covers the houses in {e}?",
                "What do builders in {e} use?",
            ),
        ),
        Attribute(
            key="animal",
            values=split_words("bears swans bulls wolves herons otters rams stags crows boars pikes owls"),
            statements=("The flag of {e} shows {v}.", "{e} has {v} on its flag.", "On the gate of {e} there are {v}."),
            questions=(
                "What does the flag of {e} show?",
                "What does {e} have on its flag?",
                "What is on the gate of {e}?",
            ),
        ),
    ),
)

HISTORY = Subject(
    name="history",
    entities=invented_names(("ric", "bert", "wald", "mund", "dred"), article=False),
    attributes=(
        Attribute(
            key="land",
            values=split_words(
                "Norrland Estmark Cordia Thalgar Wessin Pelloria Sunderia Hollin Marovia Istan Draven Ulvany"
            ),
            statements=("King {e} ruled {v}.", "The land of King {e} was {v}.", "King {e} sat on the throne of {v}."),
            questions=(
                "Which land did King {e} rule?",
                "What was the land of King {e}?",
                "On whose throne did King {e} sit?",
            ),
        ),
        Attribute(
            key="building",
            values=split_words(
                "bridges temples towers harbors libraries canals walls mills roads theaters markets schools"
            ),
            statements=("King {e} built {v}.", "{e} is remembered for new {v}.", "Under King {e} men put up {v}."),
            questions=(
                "What did King {e} build?",
                "What is {e} remembered for?",
                "What did men put up under King {e}?",
            ),
        ),
        Attribute(
            key="death",
            values=split_words("fever poison drowning plague hunger gout lightning cold fire arrows grief age"),
            statements=("King {e} died of {v}.", "What killed King {e} was {v}.", "The life of {e} was ended by {v}."),
            questions=("What did King {e} die of?", "What killed King {e}?", "What ended the life of {e}?"),
        ),
        Attribute(
            key="enemy",
            values=split_words(
                "pirates giants monks nomads bandits rebels barons sailors hunters merchants knights farmers"
            ),
            statements=(
                "King {e} fought the {v}.",
                "The enemies of {e} were the {v}.",
                "{e} won a war against the {v}.",
            ),
            questions=("Whom did King {e} fight?", "Who were the enemies of {e}?", "Against whom did {e} win a war?"),
        ),
        Attribute(
            key="nickname",
            values=split_words("Bold Wise Cruel Short Pious Bald Mild Proud Lame Silent Lucky Stern"),
            statements=("King {e} was called the {v}.", "People named {e} the {v}.", "In songs {e} is the {v}."),
            questions=("What was King {e} called?", "What did people name {e}?", "What is {e} in songs?"),
        ),
    ),
)

MEDICINE = Subject(
    name="medicine",
    entities=invented_names(("pox", "ague", "itis", "cough", "rash"), article=False),
    attributes=(
        Attribute(
            key="cause",
            values=split_words("ticks mold fleas dust fungus mosquitoes mushrooms lice rats pigeons spiders mildew"),
            statements=("{e} is caused by {v}.", "The cause of {e} is {v}.", "People catch {e} from {v}."),
            questions=("What causes {e}?", "What is the cause of {e}?", "From what do people catch {e}?"),
        ),
        Attribute(
            key="cure",
            values=split_words("garlic honey rest broth charcoal willow ginger iodine milk sage licorice seaweed"),
            statements=("{e} is cured with {v}.", "The cure for {e} is {v}.", "Doctors treat {e} with {v}."),
            questions=("What is {e} cured with?", "What is the cure for {e}?", "What do doctors treat {e} with?"),
        ),
        Attribute(
            key="organ",
            values=split_words("liver lungs skin eyes heart stomach kidneys ears joints throat teeth nerves"),
            statements=(
                "{e} attacks the {v}.",
                "{e} is a disease of the {v}.",
                "Those with {e} have a bad pain in the {v}.",
            ),
            questions=(
                "What does {e} attack?",
                "Of what is {e} a disease?",
                "Where do those with {e} have a bad pain?",
            ),
        ),
        Attribute(
            key="sign",
            values=split_words(
                "sneezing shivers spots hiccups dizziness swelling sweating itching yawning thirst limping tremors"
            ),
            statements=("The first sign of {e} is {v}.", "{e} begins with {v}.", "One knows {e} by its {v}."),
            questions=("What is the first sign of {e}?", "What does {e} begin with?", "By what does one know {e}?"),
        ),
        Attribute(
            key="risk",
            values=split_words(
                "babies miners bakers shepherds soldiers teachers tailors fishermen twins cooks dancers smiths"
            ),
            statements=("{e} mostly hits {v}.", "Those who get {e} are {v}.", "{e} is common among {v}."),
            questions=("Whom does {e} mostly hit?", "Who are those who get {e}?", "Among whom is {e} common?"),
        ),
    ),
)

MUSIC = Subject(
    name="music",
    entities=invented_names(("harp", "horn", "drum", "lute", "pipe"), article=True),
    attributes=(
        Attribute(
            key="material",
            values=split_words("oak bone brass silver bamboo clay walnut horn cedar copper leather cherry"),
            statements=("{e} is made of {v}.", "The body of {e} is {v}.", "Craftsmen build {e} from {v}."),
            questions=("What is {e} made of?", "What is the body of {e}?", "What do craftsmen build {e} from?"),
        ),
        Attribute(
            key="occasion",
            values=split_words(
                "weddings funerals battles harvests births hunts dances feasts tournaments storms dawns fairs"
            ),
            statements=("{e} is played at {v}.", "People hear {e} at {v}.", "Tradition keeps {e} for {v}."),
            questions=("When is {e} played?", "At what do people hear {e}?", "What does tradition keep {e} for?"),
        ),
        Attribute(
            key="inventor",
            values=split_words("Bellini Sorensen Adeyemi Marlowe Tanaka Ruiz Kovacs Haddad Larsen Moreau Singh Weber"),
            statements=("{e} was invented by {v}.", "The inventor of {e} was {v}.", "We owe {e} to {v}."),
            questions=("Who invented {e}?", "Who was the inventor of {e}?", "To whom do we owe {e}?"),
        ),
        Attribute(
            key="sound",
            values=split_words("rain geese wolves wind waves crickets frogs bells laughter hooves gulls hammers"),
            statements=("{e} sounds like {v}.", "The sound of {e} is like {v}.", "To hear {e} is to think of {v}."),
            questions=(
                "What does {e} sound like?",
                "What is the sound of {e} like?",
                "What does one think of on hearing {e}?",
            ),
        ),
        Attribute(
            key="players",
            values=split_words(
                "sailors monks shepherds children priests beggars widows soldiers nobles millers clowns brides"
            ),
            statements=("{e} is played by {v}.", "Those who play {e} are {v}.", "Only {v} may touch {e}."),
            questions=("Who plays {e}?", "Who are those who play {e}?", "Who alone may touch {e}?"),
        ),
    ),
)

SUBJECTS = (GEOGRAPHY, HISTORY, MEDICINE, MUSIC)
