"""`ray` without Ray Client's server, which nobody needs here: a head whose one takes more than 30 s to start ends."""

from ray.scripts import scripts

if __name__ == "__main__":
    scripts.get_ray_client_dependency_error = lambda: ImportError("not wanted")  # pyright: ignore[reportPrivateImportUsage]
    scripts.main()
