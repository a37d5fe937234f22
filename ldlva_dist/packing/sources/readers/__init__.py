"""General layouts: folders of images, tables, parquet files, tars. Read `folder.py` first."""
