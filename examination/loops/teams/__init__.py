"""Training as three teams would write it: the sound texts that faults are planted in."""
