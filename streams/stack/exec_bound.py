"""Replaces itself with a program that cannot outlive the supervisor. Runs as a script of its own, before each program.

The kernel is asked to signal the program when the thread that started it ends, however that happens, SIGKILL included.
This must come after the change of account, which clears the request, and before the program itself; a small script in
between does both without running Python code between fork and exec of a threaded process.

    exec_bound.py SUPERVISOR_PID SIGNAL UID GID UMASK NICE -- PROGRAM ARGUMENTS…
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind, then become the program."""
    supervisor, number, uid, gid, umask, nice = (int(part) for part in sys.argv[1:7])
    os.umask(umask)
    os.nice(nice)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # The supervisor may have died before the request was made.
    if os.getppid() != supervisor:
        sys.exit("the supervisor is gone")
    program = sys.argv[8:]
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
