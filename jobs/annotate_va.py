"""python jobs/annotate_va.py is the command ldlva annotate_va: ldlva_dist/commands/data/annotate_va.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("annotate_va")
