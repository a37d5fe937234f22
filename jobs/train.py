"""python jobs/train.py is the command ldlva train: ldlva_dist/commands/training/train.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("train")
