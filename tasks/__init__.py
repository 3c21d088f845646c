"""One Prefect task a stage. The work is done by a child process, so memory is given back after each."""
