"""Which images of a catalogue are like a given one."""
