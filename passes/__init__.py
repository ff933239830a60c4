"""Programs to programs: differentiate, simplify, rematerialise, fuse, place, prove."""
