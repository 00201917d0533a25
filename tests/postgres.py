"""A PostgreSQL of one's own for a while, for the tests."""

import contextlib
import getpass
import shutil
import subprocess
import tempfile
from pathlib import Path

import servers


def find_programs():
    """Look for PostgreSQL's server programs; Debian keeps them in a folder that is not on the path.

    Returns:
        The `pathlib.Path` of their folder, that of the newest version, or None where PostgreSQL is not installed.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("initdb")
    return Path(found).parent if found else None


@contextlib.contextmanager
def server():
    """Run a new PostgreSQL on a free port of 127.0.0.1, and remove it at the end.

    Yields:
        The URL of the server, without the name of a database. There is an empty one, `optuna`.
    """
    user, as_user = getpass.getuser(), []
    if user == "root":  # as which it refuses to run
        user, as_user = "postgres", ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, user)
        port, data = str(servers.free_port()), f"{folder}/data"

        def run(program, *words):
            command = [*as_user, find_programs() / program, *words]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)

        run("initdb", "--pgdata", data, "--username", user, "--auth", "trust", "--encoding", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        run("pg_ctl", "--pgdata", data, "--log", f"{folder}/log", "--options", options, "--wait", "start")
        try:
            run("createdb", "--host", "127.0.0.1", "--port", port, "--username", user, "optuna")
            yield f"postgresql://{user}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "--pgdata", data, "--mode", "immediate", "--wait", "stop")
