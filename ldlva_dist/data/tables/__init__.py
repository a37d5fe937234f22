"""Tables that people hold: one reader of CSV files, one reader of cells, whatever they are stored as."""
