"""python jobs/experiment.py is the command ldlva experiment: ldlva_dist/commands/training/experiment.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("experiment")
