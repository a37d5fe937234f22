"""From a folder or a table of images to the page of labels that are probably wrong: one command, resumed by itself."""

import sys

from ldlva_dist.commands.start.audit_request import KINDS, parse_audit
from ldlva_dist.records.console import say

DESCRIPTION = """From images with labels to the page of those that are probably wrong: python jobs/audit.py SOURCE ...

SOURCE is a folder or file, looked at as make_shards guess does, or a kind of source with its options, as
jobs/make_shards.py has them. Besides:

    --output AUDIT        folder or s3:// prefix of everything that is made
    --folds K             judge every label by a network that did not see it: K more runs, each without a Kth
    --no-duplicates       do not look for images that are there more than once
    --no-probe            do not train for a few seconds first to say how long it will take
    --SECTION.NAME VALUE  any setting of jobs/train.py in the place of the chosen one, such as --training.epochs 20

All training rows are audited: no holdout is cut off unless --holdout says so. Valence-arousal is used where the data
have it; else neighbours are found in the network's own features. Stages: pack, copies, settings, train, folds, page.
The same command resumes at the stage where it stopped, and says the end again once all is done; only --placement.* may
be others then."""


def run_audit() -> None:
    """Parse, and go from stage to stage."""
    arguments = sys.argv[1:] or ["--help"]
    if arguments[0] in ("-h", "--help"):
        say(f"{DESCRIPTION}\n\nKinds of source: {', '.join(sorted(KINDS))}")
        return
    request = parse_audit(arguments)
    output = request.output  # a wrong option is said before anything slow is imported

    from ldlva_dist.commands.start.audit_stages import run_stages

    run_stages(request, output)
