"""Plans as loaded native code: compiling, the object cache, calling."""
