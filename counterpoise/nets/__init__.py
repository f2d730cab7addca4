"""Networks: what is trained from scratch here, and the one file that opens other people's."""
