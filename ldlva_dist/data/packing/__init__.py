"""From a user's rows to a data set, in three passes that run in pieces: survey, order, write; ``engine`` runs them."""
