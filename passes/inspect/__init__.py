"""Reading a Plan: an independent checker, the report and its picture."""
