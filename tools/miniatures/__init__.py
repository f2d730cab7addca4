"""How the small models under assets/miniatures were made: run tools/train_miniatures.py."""
