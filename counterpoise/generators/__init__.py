"""What makes the samples a plan asks for."""
