"""Who is near whom: exact and FAISS search, and the K-nearest graph that comes of it. Read `graph.py` first."""
