"""What pages are drawn with: their common frame, graphs and line plots."""
