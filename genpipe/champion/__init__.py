"""Which version is champion, and what becomes champion: the gate, the trial before it, the ledger and news of moves."""
