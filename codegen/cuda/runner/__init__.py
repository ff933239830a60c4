"""Programs of kernel texts on a device: the driver, arrays there, a step as one graph."""
