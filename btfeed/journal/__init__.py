"""The journal: what was answered with 200, until every sink has it. Read base (the contract), store (tables), sqlite."""
