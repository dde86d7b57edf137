"""One file for each contender; each is run as a process of its own, which gets a task and prints a result."""
