"""python jobs/doctor.py is the command ldlva doctor: ldlva_dist/commands/start/doctor.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("doctor")
