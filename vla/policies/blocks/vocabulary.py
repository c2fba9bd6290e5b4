"""Words of manipulation language that get their own embedding in the word-level tokenizer."""

from __future__ import annotations

_WORDS = """
a an the this that it its them both all each every other another one same
and then or of to in into inside on onto over under below above beside by with without from for at near
between next behind after before against along across around toward towards away off out up down
left right front back rear top bottom middle center centre side edge corner end far closest nearest farthest
leftmost rightmost upper lower higher inner outer
pick up put place set lay drop push pull press stack open close shut move slide lift raise grasp grab take
bring carry turn rotate flip twist switch reach touch hold release insert remove pour wipe sweep knock hit
roll drag align swap return leave keep stay stop go hover point tap nudge tip fill empty cover uncover hang
unstack arrange sort gather collect put_away fetch toss throw lower
red orange yellow green blue purple violet pink brown black white gray grey cyan magenta teal turquoise
navy gold silver tan beige olive maroon lime light dark bright wooden metal glass plastic
cube box block ball sphere cylinder cone ring disc disk prism pyramid brick bar stick rod peg pin tile
triangle square circle rectangle star hexagon shape object thing item
small large big little tiny tall short long wide narrow thin thick flat round
drawer button plate bowl cup mug bin basket tray table desk counter shelf cabinet cupboard door handle lid
pot pan stove knob switch lever lamp light book caddy compartment bottle wine rack can soup sauce tomato
milk juice cream cheese butter pudding chocolate ketchup dressing salad bbq alphabet ramekin cookie cookies
frying moka microwave coffee tea kettle sink sponge towel cloth fork knife spoon spatula toy hammer drill
pad mat zone area region target goal spot marker line gate hole slot stand pile tower row pair
robot arm gripper hand finger tool
zero two three four five six seven eight nine ten first second third last once twice again
is are be so until while not no only first finally so make sure using use
cubes cylinders plates blocks boxes balls objects things
contents content fully completely half slightly gently slowly quickly
cm centimeters steps
"""

MANIPULATION_WORDS: tuple[str, ...] = tuple(dict.fromkeys(_WORDS.split()))
"""Each word once, in a fixed order: ids of stored policies depend on it only through their own tokenizer.json."""
