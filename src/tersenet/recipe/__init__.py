"""Recipes: YAML to typed steps and back, with errors that name file, line and remedy."""

from tersenet.recipe.grammar import Entry, Recipe, TrainingRecipe, read_recipe, read_training

__all__ = ["Entry", "Recipe", "TrainingRecipe", "read_recipe", "read_training"]
