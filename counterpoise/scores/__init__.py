"""One number per sample, and which samples are kept."""
