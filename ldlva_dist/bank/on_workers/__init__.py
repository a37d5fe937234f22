"""``bank.place=workers``: the bank's rows in the memory of the training ranks' devices. Read `rank_bank.py` first."""
