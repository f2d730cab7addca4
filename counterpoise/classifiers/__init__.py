"""Everything about the classifiers that are compared: their losses, the rows they see, their training, their heads."""
