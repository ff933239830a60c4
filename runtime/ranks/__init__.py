"""Many processes, one result: the world of ranks, and how they are started."""
