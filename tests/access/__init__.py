"""Who may come in, how much they may take, and what is told of it."""
