"""Doubtful labels and what people decided about them, in the formats of other tools. Read `common_form.py` first."""
