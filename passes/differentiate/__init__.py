"""Programs to derivative programs: reverse, forward, loops, Jacobians."""
