"""Models: encoders, fusion, calibration and the bundle that holds them."""
