"""Recipes: functions that return a whole study. Module name = function name = recipe name; keyword parameters = flags."""
