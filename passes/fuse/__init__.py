"""Groups of ops that become one kernel."""
