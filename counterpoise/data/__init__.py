"""From files to frozen splits: sources list and read, intake makes safe pixels, splits say who is held out."""
