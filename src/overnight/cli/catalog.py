"""`overnight list`: recipes and presets."""

import inspect

import tyro

from overnight.recipes import RECIPES, find
from overnight.recipes.bert_presets import PRESETS as BERT_PRESETS
from overnight.recipes.byte_presets import PRESETS
from overnight.recipes.gnmt_presets import PRESETS as GNMT_PRESETS
from overnight.recipes.image_presets import ALEXNETS, RESNETS
from overnight.recipes.recommender import PRESETS as RECOMMENDERS
from overnight.recipes.word_presets import PRESETS as WORD_PRESETS


def main(argv: list[str]) -> int:
    """Print what can be trained."""
    tyro.cli(list_recipes, args=argv, prog="overnight list")
    return 0


def list_recipes() -> None:
    """List the recipes, and their presets."""
    print("Recipes (overnight train RECIPE --help):\n")
    for name in RECIPES:
        print(f"  {name:<13}  {(inspect.getdoc(find(name)) or '').splitlines()[0]}")
    print("\nPresets of byte-lm (--preset NAME):\n")
    for name, preset in PRESETS.items():
        budget = f"{preset.minutes:g} minutes" if preset.minutes else f"{preset.epochs:g} epoch"
        print(
            f"  {name:<12}  {preset.hidden_size:>5} units, batch {preset.batch:>3} × {preset.length:>3} bytes, "
            f"rate {preset.lr:g}, {budget}: {preset.about}"
        )
    print("\nPresets of word-lm (--preset NAME):\n")
    for name, model in WORD_PRESETS.items():
        print(
            f"  {name:<12}  {model.hidden_size:>5} units, batch {model.batch:>3} × {model.length:>3} words, "
            f"rate {model.lr:g}, {model.epochs:g} epochs: {model.about}"
        )
    print("\nPresets of gnmt (--preset NAME):\n")
    for name, pairs in GNMT_PRESETS.items():
        print(
            f"  {name:<12}  {pairs.layers} + {pairs.layers} × {pairs.hidden_size:>4} units, "
            f"batch {pairs.batch:>3} pairs, rate {pairs.lr:.2g}, {pairs.epochs:g} epochs: {pairs.about}"
        )
    print("\nPresets of bert (--preset NAME):\n")
    for name, bert in BERT_PRESETS.items():
        print(
            f"  {name:<12}  {bert.layers:>2} layers of {bert.hidden_size:>4} units, {bert.heads:>2} heads, lamb, "
            f"batch {bert.batch:>3}, rate {bert.lamb.lr:.2g}, {bert.sequences:,} sequences: {bert.about}"
        )
    for recipe, images in (("resnet", RESNETS), ("alexnet", ALEXNETS)):
        print(f"\nPresets of {recipe} (--preset NAME):\n")
        for name, image in images.items():
            first, tuned = next(iter(image.tuned.items()))
            print(
                f"  {name:<14}  {image.size:>3} × {image.size:<3} pixels, {first}, batch {tuned.batch:>3}, "
                f"rate {tuned.lr:g}, {image.epochs:g} epochs: {image.about}"
            )
    print("\nPresets of recommender (--preset NAME):\n")
    for name, net in RECOMMENDERS.items():
        print(
            f"  {name:<12}  layers {', '.join(map(str, net.hidden)):>14}, {net.optimizer}, "
            f"batch {net.batch_size:>3} users, rate {net.lr:g}, {net.epochs:g} epochs: {net.about}"
        )
