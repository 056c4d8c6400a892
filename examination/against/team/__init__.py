"""A small network as a team has it, in three files, to plant slow-downs in among other changes."""
