"""Files that survive a crash: whole or not there, checked when they are read."""
