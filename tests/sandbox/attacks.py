"""What a hostile program may try, one snippet a property. Each must raise OSError; what it would gain is checked by whoever runs it.

python attacks.py SECRET_FILE PORT ABSTRACT_NAME SOCKET_PATH      grades all as this user; prints JSON: {name: verdict}, and the isolation
"""

from __future__ import annotations

import json
import os
import sys

from gwen25.data import TestCase
from gwen25.sandbox import Limits, grade, probe

CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
"""

# {secret}: a file of the grader's, mode 0644; {grader}: its pid; {port}, {abstract}, {path}: sockets that listen
ATTACKS = {
    "read_passwd": "open('/etc/passwd').read()",
    "read_secret_in_a_home": "open({secret!r}).read()",
    "list_a_home": "import os; os.listdir(os.path.dirname({secret!r}))",
    "list_root": "import os; os.listdir('/')",
    "read_environ_of_grader": "open('/proc/{grader}/environ', 'rb').read()",
    "read_command_of_grader": "open('/proc/{grader}/cmdline', 'rb').read()",
    "read_memory_of_grader": "open('/proc/{grader}/mem', 'rb').read(1)",
    "read_open_file_of_grader": "import os; [open(f'/proc/{grader}/fd/{{n}}', 'rb') for n in range(3, 9)]",
    "list_proc": "import os; os.listdir('/proc')",
    "list_own_scratch_parent": "import os; os.listdir('..')",
    "write_outside": "open({secret!r} + '.new', 'w')",
    "append_to_secret": "open({secret!r}, 'a').write('x')",
    "truncate_secret": "import os; os.truncate({secret!r}, 0)",
    "truncate_by_open": "import os; os.open({secret!r}, os.O_RDONLY | os.O_TRUNC)",
    "remove_secret": "import os; os.remove({secret!r})",
    "rename_secret": "import os; os.rename({secret!r}, {secret!r} + '.moved')",
    "rename_into_scratch": "import os; os.rename({secret!r}, 'mine')",
    "hard_link_secret": "import os; os.link({secret!r}, 'mine')",
    "read_through_a_link": "import os; os.symlink({secret!r}, 'mine'); open('mine').read()",
    "chmod_secret": "import os; os.chmod({secret!r}, 0o777)",
    "touch_secret": "import os; os.utime({secret!r})",
    "attribute_on_secret": "import os; os.setxattr({secret!r}, 'user.x', b'1')",
    "write_shared_memory": "open('/dev/shm/gwen25-attack', 'w')",
    "write_tmp": "open('/tmp/gwen25-attack', 'w')",
    "mkfifo": "import os; os.mkfifo('fifo')",
    "tcp": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "udp": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix_abstract": "import socket; socket.socket(socket.AF_UNIX).connect({abstract!r})",
    "unix_path": "import socket; socket.socket(socket.AF_UNIX).connect({path!r})",
    "unix_by_datagram_pair": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', {path!r})",
    "listen": "import socket; socket.socket().bind(('127.0.0.1', 0))",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "fork": "import os; os.fork() or os._exit(0)",
    "fork_bomb": "import os\nwhile True: os.fork()",
    "execve": "import os; os.execv('/bin/true', ['true'])",
    "subprocess": "import subprocess; subprocess.run(['/bin/true'])",
    "system": "import os\nif os.system('true') != 0: raise OSError",
    "posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "multiprocessing": "import multiprocessing\nif __name__ == '__main__': multiprocessing.Process(target=print).start()",
    "kill_grader": "import os; os.kill({grader}, 9)",
    "kill_parent": "import os; os.kill(os.getppid(), 9)",
    "kill_everybody": "import os; os.kill(-1, 9)",
    "kill_own_group": "import os; os.killpg(0, 9)",
    "signal_by_thread_id": CALL + "call({tkill}, {grader}, 9)",
    "signal_by_owner_of_a_pipe": "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, {grader})",
    "look_killed_from_outside": "import os; os.kill(os.getpid(), 9)",
    "survive_the_grader": CALL + "\nif libc.prctl(1, 0, 0, 0, 0) != 0: raise OSError",
    "limits_of_grader": "import resource; resource.prlimit({grader}, resource.RLIMIT_NOFILE, (10, 10))",
    "affinity_of_grader": "import os; os.sched_setaffinity({grader}, {{0}})",
    "priority_of_grader": "import os; os.setpriority(os.PRIO_PROCESS, {grader}, 19)",
    "raise_own_limits": "import resource\ntry: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nexcept ValueError: raise OSError",
    "become_root": "import os; os.setuid(0 if os.getuid() else 1000)",
    "ptrace": CALL + "call({ptrace}, 16, {grader}, 0, 0)",
    "process_vm_readv": CALL + "call({process_vm_readv}, {grader}, 0, 0, 0, 0, 0)",
    "pidfd_open": "import os; os.pidfd_open({grader})",
    "pidfd_getfd": CALL + "call(438, 0, 0, 0)",
    "clone3": CALL + "call(435, 0, 0)",
    "io_uring": CALL + "call(425, 1, bytes(120))",
    "unshare": CALL + "call({unshare}, 0x10000000)",
    "mount": CALL + "call({mount}, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "bpf": CALL + "call({bpf}, 0, bytes(64), 64)",
    "keyctl": CALL + "call({keyctl}, 0, -3, 0)",
    "perf_event_open": CALL + "call({perf_event_open}, bytes(128), 0, -1, -1, 0)",
    "userfaultfd": CALL + "call({userfaultfd}, 0)",
    "system_v_memory": CALL + "call({shmget}, 0x5eed, 4096, 0o1666)",
    "message_queue": CALL + "call({mq_open}, b'gwen25', 0o102, 0o600, 0)",
    "memfd_create": "import os; os.memfd_create('x')",
    "big_file": "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))",
}
WRAP = "try:\n{body}\nexcept OSError:\n    print('stopped')\nelse:\n    print('BREACH')\n"


def programs(secret: str, port: int, abstract: str, path: str, grader: int) -> dict[str, str]:
    from gwen25.sandbox import confine

    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    numbers = {name: pair[column] for name, pair in confine.DENIED.items()}
    values = numbers | {"secret": secret, "port": port, "abstract": abstract, "path": path, "grader": grader}
    return {name: WRAP.format(body=_indented(body.format(**values))) for name, body in ATTACKS.items()}


def _indented(body: str) -> str:
    return "\n".join("    " + line for line in body.split("\n"))


def main() -> None:
    secret, port, abstract, path = sys.argv[1:]
    found = {"isolation": str(probe())}
    for name, program in programs(secret, int(port), "\0" + abstract, path, os.getpid()).items():
        verdict = grade(program, [TestCase("", "stopped")], Limits(cpu_seconds=4, wall_seconds=20))
        found[name] = "stopped" if verdict.passed else f"{verdict.status}: {verdict.stderr}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
