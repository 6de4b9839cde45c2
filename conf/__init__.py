"""The vocabulary: one file is one class and one recipe; only the verbs' defaults lists name other groups."""
