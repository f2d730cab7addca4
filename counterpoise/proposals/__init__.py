"""What is worth making: how many of each class (budgets), and from which real images (pairings)."""
