"""Who does the work of a stage that many processes, or many machines, can share."""
