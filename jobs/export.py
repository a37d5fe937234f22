"""python jobs/export.py is the command ldlva export: ldlva_dist/commands/network/export.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("export")
