"""Whether the served images still match the calibration: sequential tests of served p-values."""
