"""python jobs/report.py is the command ldlva report: ldlva_dist/commands/labels/report.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("report")
