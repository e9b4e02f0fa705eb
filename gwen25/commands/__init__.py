"""What each command of `gwen25` does. `gwen25.cli` parses, and imports of these only the one that was asked for."""
