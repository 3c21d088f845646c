"""How a project is, for whoever looks after it: the journal of its runs, their status, and the doctor."""
