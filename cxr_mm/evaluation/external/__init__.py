"""External validation: a model at another site, and its recalibration."""
