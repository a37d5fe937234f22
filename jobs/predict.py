"""python jobs/predict.py is the command ldlva predict: ldlva_dist/commands/network/predict.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("predict")
