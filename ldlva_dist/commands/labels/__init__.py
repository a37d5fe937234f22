"""Commands that judge a trained run, show its doubtful labels, and take them to other tools and back."""
