"""Loop IR and Plan to kernel texts."""
