"""Recipes of the five sources at full size: one module for each."""
