"""python jobs/evaluate.py is the command ldlva evaluate: ldlva_dist/commands/labels/evaluate.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("evaluate")
