"""What a trained classifier did, and what may be concluded from it: accuracy, calibration, evidence, verdict."""
