"""Pictures that show why."""
