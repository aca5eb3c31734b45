"""What operators ask of a front end: the summary, searches and downloads of tasks, and events."""
