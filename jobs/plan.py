"""python jobs/plan.py is the command ldlva plan: ldlva_dist/commands/training/plan.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("plan")
