"""The ten stages (and the intake before them). They meet only on disk: each names its units, a unit is one committed file."""
