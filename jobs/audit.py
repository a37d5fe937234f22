"""python jobs/audit.py is the command ldlva audit: ldlva_dist/commands/start/audit.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("audit")
