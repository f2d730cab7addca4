"""Where a classifier or a generator works: pixels as they are, or the features of a frozen backbone."""
