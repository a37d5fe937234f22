"""python jobs/status.py is the command ldlva status: ldlva_dist/commands/training/status.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("status")
