"""Sites: a verdict for each hospital of one log under one false-alarm rate, and how they differ."""
