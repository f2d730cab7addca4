"""One small sampling core for pixels, latents and features. The waist is the Denoiser; all else wraps it or walks it."""
