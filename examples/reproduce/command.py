"""The command line: a recipe by its name, and its options."""

import argparse

import program

from reproduce import (
    imagenet_steps,
    one_cycle,
    recipe,
    rex,
    snapshots,
    texp,
    tutorial_vit,
)

MODULES = (tutorial_vit, rex, one_cycle, snapshots, texp, imagenet_steps)
RECIPES = {module.RECIPE.name: module.RECIPE for module in MODULES}


def main(arguments=None, description=""):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(dest="recipe", required=True, metavar="RECIPE")
    parsers = {}
    for name, one in RECIPES.items():
        parsers[name] = chosen.add_parser(
            name, help=one.about.partition(".")[0], description=one.about
        )
        recipe.add_common(parsers[name], one)
        one.add_options(parsers[name])
    options = program.parse(parser, arguments)
    recipe.main(RECIPES[options.recipe], parsers[options.recipe], options)
