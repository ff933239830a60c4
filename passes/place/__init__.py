"""Every buffer's place in one arena: order, lifetimes, aliasing, scratch."""
