"""What people have, one layout a file; each reads any stretch of its rows anywhere (``rows.Source``)."""
