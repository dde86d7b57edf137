# No other compiled module uses this one.
