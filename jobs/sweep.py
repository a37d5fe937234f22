"""python jobs/sweep.py is the command ldlva sweep: ldlva_dist/commands/training/sweep.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("sweep")
