"""Plans run by the reference executor: the smallest backend."""
